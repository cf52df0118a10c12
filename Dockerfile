# syntax=docker/dockerfile:1
# The service as an image. CPU:  docker build -t slidecascade .
#                          GPU:  docker build -t slidecascade:gpu --build-arg VARIANT=gpu .
# The GPU variant brings CUDA and cuDNN as Python packages; the host needs NVIDIA's driver and container toolkit.
ARG VARIANT=cpu

FROM python:3.11-slim-bookworm AS build
ARG VARIANT
WORKDIR /src
# The wheel is built in a venv of its own: build tools do not reach the final image.
RUN python -m venv /opt/build && python -m venv /opt/slidecascade
ENV PATH=/opt/slidecascade/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Requirements first: they change less often than the code, so this layer is kept.
COPY requirements ./requirements
RUN /opt/build/bin/pip install -r requirements/build.txt && pip install -r requirements/service-${VARIANT}.txt
# The page's packages likewise.
COPY service/slidecascade/viewer/package.json service/slidecascade/viewer/package-lock.json service/slidecascade/viewer/
RUN PATH=/opt/build/bin:$PATH npm --prefix service/slidecascade/viewer ci --no-audit --no-fund
COPY . .
RUN PATH=/opt/build/bin:$PATH npm --prefix service/slidecascade/viewer run build
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation -w /wheels . \
    && pip install --no-deps /wheels/*.whl

FROM python:3.11-slim-bookworm AS runtime-cpu
ENV SLIDECASCADE_DEVICE=cpu

FROM python:3.11-slim-bookworm AS runtime-gpu
ENV SLIDECASCADE_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime-${VARIANT}
COPY --from=build /opt/slidecascade /opt/slidecascade
RUN useradd --create-home --uid 10001 slidecascade \
    && install -d -o slidecascade -g slidecascade /jobs
USER slidecascade
WORKDIR /home/slidecascade
ENV PATH=/opt/slidecascade/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BENTOML_DO_NOT_TRACK=True \
    ORT_DISABLE_TELEMETRY=1 \
    ORT_TELEMETRY_DISABLED=1 \
    BENTOML_HOME=/tmp/bentoml \
    SLIDECASCADE_HOST=0.0.0.0 \
    SLIDECASCADE_PORT=3000
EXPOSE 3000
# Drain needs longer than the ten seconds Docker waits by default: run with --stop-timeout 70.
STOPSIGNAL SIGTERM
# Liveness: a draining service is not ready, but must not be restarted.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['SLIDECASCADE_PORT'] + '/livez', timeout=4)"]
CMD ["slidecascade", "serve"]
