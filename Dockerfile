# Perdure on GPUs: the base brings Python, CUDA, NCCL and a PyTorch built for them, which pip must not replace.
# On CPUs: --build-arg BASE_IMAGE=python:3.12-slim; pip then brings a PyTorch (see PIP_EXTRA_INDEX_URL).
# The tag is NVIDIA's monthly release and is not moved; whoever wants more than its word appends the digest of what was
# pulled: BASE_IMAGE=...:26.06-py3@sha256:...
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:26.06-py3
FROM ${BASE_IMAGE}

# The base pins its own packages through PIP_CONSTRAINT, some below what datatrove and transformers need.
ENV PIP_CONSTRAINT= \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
# Where pip looks besides its default: an index of CPU builds keeps a CPU image free of CUDA.
ARG PIP_EXTRA_INDEX_URL

WORKDIR /opt/perdure
# What it depends on is a layer of its own: another version of Perdure adds a megabyte. PyTorch and Triton that are there
# are held at their versions: an install that wants others fails instead of replacing them.
COPY pyproject.toml ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        extras = project['optional-dependencies']; \
        print(*project['dependencies'], *extras['data'], *extras['train'], *extras['hub'], sep='\n')" > /tmp/requirements.txt \
    && python -c "from importlib.metadata import distributions; \
        print(*(f'{name}=={d.version}' for name in ('torch', 'triton') for d in distributions(name=name)), sep='\n')" \
        > /tmp/constraints.txt \
    && python -m pip install -c /tmp/constraints.txt -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt /tmp/constraints.txt
COPY . .
RUN python -m pip install --no-deps . \
    && rm -r build ./*.egg-info \
    && useradd --create-home --uid 10001 perdure

USER 10001:10001
WORKDIR /home/perdure
ENTRYPOINT ["perdure"]
CMD ["--help"]
