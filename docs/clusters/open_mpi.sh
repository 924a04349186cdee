#!/bin/bash
# One run of one process per machine. Open MPI 5 does not say on which machine process 0 is, so --coordinator names the first.
# By default, mpirun binds a process to a single core, which the threads that read the data would share.
mpirun --host node1,node2 -n 2 --bind-to none python main.py --config=configs/zigzag.py:voc2012 --workdir=/shared/zigzag --coordinator=node1:8476
