"""A tiny random model of every family of decoders that transformers knows.

kinds    which families there are, and the twenty that people train most
sizes    sizes that configurations have in common, under all the names they go by
own      what single families need beside them
build    build("qwen3_moe") -> the model
float64  modelling code that would compute in float32 computes in float64
"""
