"""The commands as they are installed: a script without site."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def main():
    print("begins", flush=True)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        print(sum(pool.map(abs, [-1, -2])))
    return 3
"""


def test_its_own_processes_do_not_run_the_command_again(tmp_path: Path) -> None:
    """`audit verify` shares the work on a large log; each of its processes imports the script (spawn)."""
    (tmp_path / "many.py").write_text(COMMAND)
    text = (ROOT / "systemd" / "entry.in").read_text()
    for name, value in (("@LIB@", sys.prefix), ("@MODULE@", "many"), ("@SITE@", "lib")):
        text = text.replace(name, value)
    script = tmp_path / "command"
    script.write_text(text.replace("from many", f"sys.path.append({str(tmp_path)!r})\nfrom many"))
    script.chmod(0o755)
    done = subprocess.run([script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "begins\n3\n"), done.stderr
