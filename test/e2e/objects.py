"""An object store for the tests: moto with authentication switched on, and a proxy before it that is slow or
broken on request. Both listen on loopback."""
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import boto3
import botocore.config

BUCKET = "pages"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def shut(*sockets):
    for s in sockets:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class Proxy:
    """mode: pass, refuse, hang, error (HTTP 500), cut (half of each answer), wrong (a flipped byte in each answer
    of some length)."""

    def __init__(self, target, delay=0.0):
        self.target, self.delay, self.mode, self.requests = target, delay, "pass", 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.open = True
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while self.open:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.mode == "refuse":
                client.close()
                continue
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        try:
            upstream = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        for s in (client, upstream):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self.back, args=(upstream, client), daemon=True).start()
        waiting = True
        try:
            while data := client.recv(1 << 18):
                if data[:4] in (b"GET ", b"PUT ", b"POST", b"DELE", b"HEAD"):
                    waiting = True
                    self.requests += 1
                if self.mode == "hang":
                    time.sleep(3600)
                if self.mode == "refuse":
                    break
                if self.mode == "error":
                    client.sendall(b"HTTP/1.1 500 Oh no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    break
                if waiting and self.delay:
                    time.sleep(self.delay)
                waiting = False
                upstream.sendall(data)
        except OSError:
            pass
        shut(client, upstream)

    def back(self, upstream, client):
        try:
            while data := upstream.recv(1 << 18):
                if self.mode == "cut" and len(data) > 1000:
                    client.sendall(data[: len(data) // 2])
                    break
                if self.mode == "wrong" and len(data) > 1000:
                    data = bytearray(data)
                    data[-len(data) // 3] ^= 0x10
                client.sendall(data)
        except OSError:
            pass
        shut(client, upstream)

    def close(self):
        self.open = False
        self.listener.close()


class Store:
    def __init__(self, delay=0.0):
        self.port = free_port()
        self.proc = subprocess.Popen(
            [str(pathlib.Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(self.port)],
            env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "4", "AWS_EC2_METADATA_DISABLED": "true"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{self.port}"
        config = botocore.config.Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=20)
        root = dict(endpoint_url=url, region_name="us-east-1", aws_access_key_id="root", aws_secret_access_key="root", config=config)
        iam = boto3.client("iam", **root)
        for _ in range(100):
            try:
                iam.create_user(UserName="sparing")
                break
            except Exception:
                time.sleep(0.1)
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        made = iam.create_policy(PolicyName="all", PolicyDocument=json.dumps(policy))
        iam.attach_user_policy(UserName="sparing", PolicyArn=made["Policy"]["Arn"])
        key = iam.create_access_key(UserName="sparing")["AccessKey"]
        self.id, self.secret = key["AccessKeyId"], key["SecretAccessKey"]
        self.s3 = boto3.client("s3", **{**root, "aws_access_key_id": self.id, "aws_secret_access_key": self.secret})
        self.s3.create_bucket(Bucket=BUCKET)
        self.proxy = Proxy(self.port, delay)
        self.env = {"AWS_ACCESS_KEY_ID": self.id, "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_REGION": "us-east-1",
                    "AWS_ENDPOINT_URL_S3": self.proxy.url}

    def keys(self, prefix=""):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [o["Key"] for p in pages for o in p.get("Contents", [])]

    def stop(self):
        self.proxy.close()
        self.proc.terminate()
        self.proc.wait(timeout=20)
