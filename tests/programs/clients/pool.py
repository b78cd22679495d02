"""Sends requests by `requests` from several threads, and prints the answers."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import requests
from requests.adapters import HTTPAdapter


def main() -> None:
    url, clients, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with requests.Session() as session, ThreadPoolExecutor(clients) as pool:
        session.trust_env = False
        session.mount("http://", HTTPAdapter(1, clients, max_retries=0, pool_block=True))

        def client(first: int) -> str:
            return "".join(ask(session, url, number) for number in range(first, first + each))

        for said in pool.map(client, range(0, clients * each, each)):
            sys.stdout.write(said)


def ask(session: requests.Session, url: str, number: int) -> str:
    body = str(number).encode() * (number % 7 * 3000)
    target = f"{url}?{number}"
    match number % 3:
        case 0:
            response = session.get(target, timeout=30)
        case 1:
            response = session.post(target, data=body, timeout=30)
        case _:
            response = session.post(target, data=iter([body] if body else []), timeout=30)
    response.raise_for_status()
    return response.text


main()
