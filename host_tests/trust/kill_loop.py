"""Installs, confirms and reverts for ever in the present folder, to be killed at any moment.

    micropython kill_loop.py FOLDER

Prints a line per state it has reached, so that the test knows what must still be there.
"""

import json
import sys

import scenarios


def main():
    env = scenarios.Env(sys.argv[1], False)
    env.boot()
    state = env.store.state
    good = env.store.facts(state.good) if state.good else None
    print(
        json.dumps(
            ["boot", good.version if good else 0, state.floor, state.seen, str(env.store.error)]
        )
    )
    version = state.seen
    while True:
        version += 1
        if version > 8:
            # Only as many packages were signed: begin anew, as a new board would.
            print(json.dumps(["end"]))
            return
        env.install("v%d_third" % version)
        for _ in range(2):
            env.fail(scenarios.untrusted())
        if version % 2:
            env.fail(scenarios.untrusted())
            continue
        env.connect(None)
        print(json.dumps(["confirmed", env.store.state.good.version, env.store.state.floor]))


if __name__ == "__main__":
    main()
