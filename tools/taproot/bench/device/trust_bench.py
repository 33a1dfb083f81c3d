# One verification, counted: alg FILE {python|c}. FILE is the modulus, then the signature.
import gc
import os
import sys
import time
from binascii import b2a_base64
from hashlib import sha256

from azure_iot.trust import native, rsa

ALG, FILE, KIND = sys.argv[1:4]
with open(FILE, "rb") as file:
    data = file.read()
half = len(data) // 2
text = b2a_base64(data[:half])[:-1].rstrip(b"=").replace(b"+", b"-").replace(b"/", b"_")
key = rsa.Key(ALG, text, b"AQAB")
digest = sha256(b"signed").digest()
signature = data[half:]
verify = rsa.verify if KIND == "python" else native.verify
if KIND == "c" and native.verifier() is rsa.verify:
    print("SKIP: no tlsopt")
    os.putenv("CG", "1")
    os.unsetenv("CG")
    sys.exit()
gc.collect()
before = gc.mem_alloc()
started = time.ticks_us()
os.putenv("CG", "1")
verify(key, digest, signature)
os.unsetenv("CG")
print("RESULT", gc.mem_alloc() - before, time.ticks_diff(time.ticks_us(), started))
