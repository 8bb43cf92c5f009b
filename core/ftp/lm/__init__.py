"""Toolkit for causal language models: from rows to tokens, from files to a model, from a model to losses and answers.

Text and tokens:

- `rendering`: examples to text by the chat template, and to tokens with the mask of those that carry loss.
- `chat_template`: conversations to text by a chat template.
- `control_tokens`: control tokens that the text of a row spells out, which stay text.
- `template_limits`: chat templates that run with limits of time and output.
- `tokens`: tokenised rows on disk, cached by content; token counts for curators.
- `byte_level`: encodes for byte-level tokenizers without their offsets, which is faster.
- `ascii_bpe`: encodes ASCII text for byte-level BPE tokenizers by looking words up.

Models from files:

- `hf_loader`: a base class for loaders of Hugging Face files.
- `hf_tokenizer`: tokenizers made ready for training: chat template, pad token, new tokens.
- `torch_weights`: what a model is made of, and its weights in memory.
- `processor`: what is known of the processor without torch.
- `torch_types`: the data types that a model is loaded in and multiplied in.
- `torch_bfloat16`: frozen linear layers held in bfloat16 and multiplied in float32.
- `torch_merge`: trained weights merged into the base model, and whole models on disk.
- `torch_devices`: the device to compute on, and the type of number that suits it.
- `torch_models`: parts of a causal language model: inside an adapter's wrapper, output head, experts.

Computing:

- `torch_packing`: rows of a batch in one sequence, without padding.
- `torch_attention`: causal attention within the documents of a packed sequence.
- `prefixes`: tokens that several rows begin with, as a forest.
- `torch_prefix_attention`: attention of each token to what stands before it in its own row of a forest.
- `torch_products`: the speed of matrix products, and the type to multiply in.
- `torch_losses`: the loss of a model on every row.
- `sampling`: how an answer is sampled, and its text as it grows token by token.
- `answering`: models to talk to: conversations to requests, and the pieces of several answers as they come.
- `torch_decode`: requests decoded in batches that they join and leave at any time, each with its own adapter.
- `decoding`: the parts of `torch_decode`: batches, their caches, adapters by row, the choice of tokens.
- `torch_generate`: answers by the model's own `generate`.
- `torch_parity`: how near two forms of a model are.
- `learning_rates`: how a learning rate compares with the usual ones of an adapter.
- `allocator`: glibc's allocator, set up for tensors on the CPU.

Modules named `torch_*` import torch at the top; import them inside functions, so that commands which need no torch stay
quick. docs/toolkits.md has examples.
"""
