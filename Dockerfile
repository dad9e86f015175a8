# docker build -t satbench .                          CPU only
# docker build -t satbench --build-arg DEVICE=cuda .  with CUDA; run it with --gpus all
# docker run --rm -v "$PWD:/home/satbench/data" satbench eval --model digits-silu --attack pgd --n 100 --out runs/silu
FROM python:3.12-slim

ARG DEVICE=cpu
RUN pip install --no-cache-dir uv
COPY pyproject.toml README.md LICENSE model_zoo.yaml /source/
COPY leaderboards/claims.yaml /source/leaderboards/
COPY satbench /source/satbench
RUN case "$DEVICE" in \
        cpu) backend="--torch-backend cpu" ;; \
        cuda) backend="" ;; \
        *) echo "DEVICE=$DEVICE; give cpu or cuda" >&2; exit 2 ;; \
    esac \
    && uv pip install --system --no-cache --compile-bytecode $backend /source

RUN useradd --create-home satbench && install --directory --owner satbench /home/satbench/data
USER satbench
WORKDIR /home/satbench/data
ENTRYPOINT ["satbench"]
CMD ["--help"]
