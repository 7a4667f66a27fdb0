# One image for every process of Aforo; docker-compose.yml says which one a container runs. The API is what it runs alone.
# The source tree is copied, not installed: the API finds openapi.yaml beside its packages.

FROM python:3.13-slim AS requirements
COPY requirements.lock /
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement /requirements.lock

FROM python:3.13-slim
RUN groupadd --gid 10001 aforo \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin aforo
COPY --from=requirements /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
WORKDIR /app
COPY pyproject.toml openapi.yaml ./
COPY core core
COPY api api
COPY worker worker
COPY ops ops
RUN python -m compileall -q .
USER 10001:10001
EXPOSE 8000
CMD ["gunicorn", "--config", "python:api.server", "api.app:create_app_from_environment()"]
