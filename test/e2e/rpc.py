"""A client of the gRPC services that knows of them only what their reflection tells."""
import re

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Client:
    @staticmethod
    def target_of(server):
        return re.search(r"on (\S+:\d+)", next(x for x in server.log if "gRPC services" in x))[1]

    def __init__(self, server, key=None, credentials=None, target=None):
        """server: a conftest.Server that was started with --grpc; or its address as target. Each has a connection of its own. credentials: of TLS."""
        self.target = target or self.target_of(server)
        options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.secure_channel(self.target, credentials, options) if credentials else grpc.insecure_channel(self.target, options)
        self.key = key
        self.base = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.base)

    def close(self):
        self.channel.close()

    def type(self, name):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def call(self, method, request=None, timeout=600, metadata=(), raw=None):
        """method: "sparing.v1.Generation/Generate". An iterator of messages where it streams. raw: bytes in the place of a request."""
        service, name = method.split("/")
        m = self.pool.FindServiceByName(service).FindMethodByName(name)
        to = message_factory.GetMessageClass(m.input_type)
        back = message_factory.GetMessageClass(m.output_type)
        make = self.channel.unary_stream if m.server_streaming else self.channel.unary_unary
        stub = make("/" + method, request_serializer=lambda x: x if raw is not None else x.SerializeToString(), response_deserializer=back.FromString)
        meta = list(metadata) + ([("authorization", f"Bearer {self.key}")] if self.key else [])
        return stub(raw if raw is not None else to(**(request or {})), timeout=timeout, metadata=meta)

    def generate(self, text=None, **kw):
        """Text and the finish."""
        metadata = kw.pop("metadata", ())
        prompt = kw.pop("prompt", None) or {"text": text}
        events = list(self.call("sparing.v1.Generation/Generate", {"prompt": prompt, **kw}, metadata=metadata))
        assert [e.WhichOneof("event") == "finish" for e in events] == [False] * (len(events) - 1) + [True]
        return "".join(e.text for e in events[:-1]), events[-1].finish
