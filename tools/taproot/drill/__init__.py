"""The root migration drill: real devices, a real TLS hub, and a root that goes away.

`world` makes what a run needs (certificates, keys, bundles, hub), `device` is the desktop's hold
on one device process, `program.py` is what runs on the device, `scenario` is the story step by
step, `account` counts what was accepted, recorded and lost.
"""
