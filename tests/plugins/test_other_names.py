"""Keys that other tools use, or that stand in the wrong block: the error says where they live here."""

import pytest

BELONGS = {
    "num_train_epochs=3": "here it is train.epochs",
    "train.num_epochs=3": "here it is 'epochs'",
    "train.lr=1e-4": "here it is 'learning_rate'",
    "lr=1e-4": "here it is train.learning_rate",
    "learning_rate=1e-4": "here it is train.learning_rate",
    "train.per_device_train_batch_size=2": "here it is 'batch_size'",
    "train.micro_batch_size=2": "here it is 'batch_size'",
    "gradient_accumulation_steps=4": "here it is train.gradient_accumulation",
    "model.load_in_4bit=true": "here it is adapter: {use: qlora}",
    "load_in_4bit=true": "here it is adapter: {use: qlora}",
    "load_in_8bit=true": "here it is adapter.scheme (of `use: qlora`)",
    "adapter.lora_r=8": "here it is 'r'",
    "lora_r=8": "here it is adapter.r",
    "adapter.lora_alpha=8": "here it is 'alpha'",
    "train.seed=1": "here it is seed or answers.seed",
    "sequence_len=512": "here it is train.max_length",
    "cutoff_len=512": "here it is train.max_length",
    "base_model=x": "here it is model.id",
    "model.model_name_or_path=x": "here it is 'id'",
    "datasets=[]": "here it is data.train",
    "val_set_size=0.1": "here it is data.validation",
    "output_dir=out": "here it is `ftp run --runs DIRECTORY`",
    "max_new_tokens=5": "here it is train.max_new_tokens (of `use: grpo`) or answers.max_new_tokens",
    "batch_size=5": "here it is train.batch_size or answers.batch_size",
    "curate=[]": "here it is data.curate",
    "adapter.bnb_4bit_quant_type=nf4": "here it is adapter.scheme (of `use: qlora`)",
    "train.epoch=1": "did you mean 'epochs'?",
    "train.optim=adamw_8bit": "here it is 'optimizer'",
    "train.adam_beta2=0.95": "here it is 'optimizer.betas'",
    "adam_beta2=0.95": "here it is train.optimizer.betas",
    "train.warmup_steps=10": "here it is 'warmup'",
    "train.lr_scheduler_type=cosine": "here it is 'schedule'",
    "train.cosine_min_lr_ratio=0.1": "here it is 'min_lr_ratio'",
    "max_steps=10": "here it is train.max_steps",
    "train.neftune_alpha=5": "here it is 'neftune_noise_alpha'",
    "train.label_smoothing_factor=0.1": "here it is 'label_smoothing'",
    "train.save_total_limit=2": "here it is 'save_total'",
    "train.early_stopping_patience=3": "here it is watch.patience (of `use: early_stopping`)",
    "early_stopping=true": "here it is watch: [{use: early_stopping}]",
    "early_stopping_patience=3": "here it is watch.patience (of `use: early_stopping`)",
}


@pytest.mark.parametrize(("setting", "said"), BELONGS.items(), ids=list(BELONGS))
def test_an_unknown_key_says_where_it_lives(ftp, ftp_recipe, setting, said):
    outcome = ftp("check", "--no-data", str(ftp_recipe()), "--set", setting)
    assert outcome.code == 2
    path = setting.partition("=")[0]
    assert outcome.err.splitlines()[0] == f"--set {setting}: {path}: unknown key; {said}"
