"""A transient block gives back what it imported, and only that, on every build."""

import pytest
from taproot import interpreters

PROGRAM = """
import gc, sys
import azure_iot.errors
from azure_iot.transient import Transient
import azure_iot.trust.errors

def heap():
    gc.collect()
    return gc.mem_alloc()

def job():
    with Transient():
        from azure_iot.trust.scan import Scanner
        assert "azure_iot.trust.scan" in sys.modules
        return heap()

job()
before = after = 0
before = heap()
inside = job()
after = heap()
kept = azure_iot.trust.errors
try:
    with Transient():
        import azure_iot.trust.jws
        raise ValueError("on the way")
except ValueError:
    pass
left = [name for name in sys.modules if name in ("azure_iot.trust.scan", "azure_iot.trust.jws")]
import azure_iot.trust.errors as again
print(left, kept is again, hasattr(azure_iot.trust, "scan"), inside - before, after - before)
"""


@pytest.mark.parametrize("build", ["unix64", "unix32"], indirect=True)
def test_a_block_forgets_what_it_imported(build):
    result = interpreters.run(build, PROGRAM, heap="1m", frozen=True)
    assert result.returncode == 0, result.text
    left, same, found, inside, after = result.stdout.rsplit(maxsplit=4)
    assert (left, same, found) == ("[]", "True", "False")
    assert int(inside) > 500, "nothing was loaded inside"
    assert abs(int(after)) <= 64, "the block left something behind"
