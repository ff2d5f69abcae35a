"""The audit of a folder beside mrQA: time, headers per second, and what each finds of planted errors."""
