import os
import signal
import subprocess
import sys

STUDY = """
import os, signal, sys
from multiprocessing import forkserver
from pathlib import Path
from pipeline.tools.study import forks
from pipeline.tools.study.jobs import Job

forks.PRELOADED = ()
signal.signal(signal.SIGTERM, lambda number, frame: None)
folder = Path(sys.argv[1])
with forks.forking(1) as start:
    server = forkserver._forkserver._forkserver_pid
    os.killpg(0, signal.SIGTERM)  # as `kill -- -PGID`, a scheduler or a supervisor sends it: to all of a group
    job = start(Job("waits", ("timeit", "-n1", "-r1", "import time; time.sleep(60)"), {}, {}, (), folder))
    job.join(2)
    assert job.exitcode is None
    job.terminate()
    job.join(30)
    assert (job.exitcode, forkserver._forkserver._forkserver_pid) == (-signal.SIGTERM, server)
"""


def test_a_signal_to_the_whole_group_leaves_the_server_that_forks(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STUDY, str(tmp_path)],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != -signal.SIGTERM
    assert done.returncode == 0, done.stderr
