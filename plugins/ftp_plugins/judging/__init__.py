"""A language model as a judge: asking it, reading its replies, and measuring its quality."""
