"""Parts of `ftp.lm.torch_decode`: rows in progress, the choice of tokens, batches and their caches, adapters by row.

- `torch_choice`: a row in progress, and the choice of its next token.
- `torch_packed`: rows decoded without padding, each with a strip of its own in the cache.
- `torch_cache`: those strips, and attention over them.
- `torch_padded`: rows decoded by the model's own forward pass, padded on the left.
- `torch_adapters`: LoRA layers that answer each row with its own adapter, and peft's selection of one.
- `torch_wide`: products of bfloat16 weights on a CPU without matrix units.
"""
