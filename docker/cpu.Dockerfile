# mft on processors, with the pinned packages:
#   docker build -f docker/cpu.Dockerfile -t mft:cpu . && docker run --rm -v "$PWD/outputs:/work/outputs" mft:cpu doctor
FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends git gcc g++ bubblewrap && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/mft
COPY requirements/cpu.txt requirements/cpu.txt
# The CPU build of torch: without the CUDA libraries that the lock names for the index's own build.
RUN grep -v '^nvidia-\|^cuda-\|^triton==' requirements/cpu.txt > /tmp/packages.txt \
 && DS_BUILD_OPS=0 pip install --no-cache-dir --no-deps --extra-index-url https://download.pytorch.org/whl/cpu -r /tmp/packages.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
WORKDIR /work
ENTRYPOINT ["mft"]
