# mft on NVIDIA GPUs, with the pinned packages; the image holds CUDA's libraries, the host its driver:
#   docker build -f docker/cuda.Dockerfile -t mft:cuda . && docker run --rm --gpus all --ipc=host -v "$PWD/outputs:/work/outputs" mft:cuda doctor
FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends git gcc g++ bubblewrap && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/mft
COPY requirements/gpu.txt requirements/gpu.txt
RUN DS_BUILD_OPS=0 pip install --no-cache-dir --no-deps -r requirements/gpu.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
WORKDIR /work
ENTRYPOINT ["mft"]
