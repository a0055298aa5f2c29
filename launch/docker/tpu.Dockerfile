# jaxdistill for TPU hosts, as launch/gke.sh and launch/xpk.sh take it:
#
#   docker build --file launch/docker/tpu.Dockerfile --tag REGISTRY/jaxdistill:tpu .
#   docker push REGISTRY/jaxdistill:tpu
FROM python:3.12-slim-bookworm

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY jaxdistill jaxdistill
# Which versions, pyproject.toml says.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[tpu,gcs]'
COPY configs configs
COPY launch launch

# What GKE and xpk name as the command takes the place of this: there a failed
# host begins again with all others, not by itself.
ENTRYPOINT ["/app/launch/babysit.sh", "--"]
CMD ["jaxdistill", "doctor"]
