"""What FTP adds to any `transformers.Trainer`, for the trainers of plugins as for the built-in ones.

`class DPO(TrainerWithParts, trl.DPOTrainer)` gets a rehearsal before its first step, events for the terminal and the
report, validation with the best state, checkpoints that appear whole or not at all, resuming, the watchers' decisions,
and SIGTERM and Ctrl-C:

    trainer = DPO(model=job.model.model, args=args, train_dataset=rows, processing_class=job.model.tokenizer)
    trainer.use_parts(TrainingParts(job, lengths, trained_tokens))
    return train(trainer)

It lies in the core's toolkit for language models and not beside the built-in trainers, because nothing here knows
what is trained on, or with which loss; a plugin's trainer needs to import no other plugin for it.

- `torch_run`: `train`, from the first step or the last checkpoint to a `TrainResult`.
- `torch_trainer`: `TrainerWithParts`, the methods that `transformers.Trainer` has no callback for, and its callback.
- `torch_parts`: `TrainingParts`, the state of one training, its events, and the decisions on it.
- `torch_validation`: the validation loss of rows, token by token.
- `best_by`: the check of a trainer's option `best_by` against the evaluators of the recipe.
- `torch_rehearsal`, `torch_checkpoints`, `torch_memory`, `torch_deterministic`, `signals`: one part each.
"""
