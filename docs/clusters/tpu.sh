#!/bin/bash
# One run on all machines of a Cloud TPU slice: ./tpu.sh NAME ZONE. Each machine has a clone in ~/ctxseg, with jax[tpu] in its environment.
gcloud compute tpus tpu-vm ssh "$1" --zone="$2" --worker=all --command='
  cd ctxseg && .venv/bin/python main.py --config=configs/zigzag.py:voc2012 --workdir=gs://BUCKET/zigzag'
