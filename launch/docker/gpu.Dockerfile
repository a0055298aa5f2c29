# jaxdistill for machines with NVIDIA GPUs, whose driver must be 580 or newer:
#
#   docker build --file launch/docker/gpu.Dockerfile --tag jaxdistill:gpu .
#   docker run --gpus all --volume RUNS:/runs jaxdistill:gpu jaxdistill train --config configs/sqlm_small.py --workdir /runs/a
#
# CUDA comes with the Python packages; of the host it takes the driver alone.
FROM python:3.12-slim-bookworm

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY jaxdistill jaxdistill
# Which versions, pyproject.toml says.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[gpu,gcs]'
COPY configs configs
COPY launch launch

# docker stop gives a run 10 s to save in; docker stop --time 300 gives it more.
ENTRYPOINT ["/app/launch/babysit.sh", "--"]
CMD ["jaxdistill", "doctor"]
