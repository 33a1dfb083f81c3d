# Download a file over verified HTTPS: piece by piece into any object with write(), never more
# than the limit, redirects only as many as named.
import asyncio
import secrets

from azure_iot.https import Fetcher
from azure_iot.tls.context import TLSContext


async def main():
    context = TLSContext(secrets.options()["roots"])
    answer = await Fetcher().fetch(secrets.URL, file, 1_000_000, redirects=2, context=context)
    print("fetched", answer.size, "bytes,", answer.headers.get("content-type"))


with open("download.bin", "wb") as file:
    asyncio.run(main())
