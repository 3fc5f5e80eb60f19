from loadtest import machine


def test_facts_are_read() -> None:
    assert (
        machine.cpu_model("processor : 0\nmodel name\t: Fast CPU @ 3 GHz\n") == "Fast CPU @ 3 GHz"
    )
    assert machine.cpu_model("processor : 0\n")
    assert machine.memory_gib("MemTotal:        8388608 kB\n") == 8.0
    assert machine.memory_gib("") is None
    assert machine.os_name('NAME="X"\nPRETTY_NAME="Some Linux 12"\n') == "Some Linux 12"


def test_versions_are_those_installed() -> None:
    described = machine.describe()
    assert described["packages"].keys() == set(machine.PACKAGES)
    assert described["packages"]["hdrhistogram"]
    assert machine.version("no-such-package-at-all") is None
