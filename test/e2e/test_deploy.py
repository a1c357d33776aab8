"""What deploy/ has: units, the image, the chart, manifests and Envoy's configuration, each held against the real server or the real reader of its form."""
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading

import httpx
import kubernetes.client
import pytest
import yaml
from helm_python import Chart, HelmError, lint

from conftest import BIN, MODEL, PATIENCE, ROOT, Server, quick_file, run, wait_until, write_keys

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/sparing"
ROLES = yaml.safe_load((DEPLOY / "kubernetes/roles.values.yaml").read_text())


def render(values=None):
    with Chart.load(CHART) as chart:
        parts = chart.render(values=values or {}, name="demo", namespace="ns")
    return [o for text in parts.values() for o in yaml.safe_load_all(text) if o]


def of_kind(objects, kind):
    return [o for o in objects if o["kind"] == kind]


# --- systemd -------------------------------------------------------------------------------------


def hear(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(path)
    s.settimeout(PATIENCE)
    return s


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears_when_it_is_ready_and_when_it_stops(tmp_path, abstract):
    name = f"sparing-{os.getpid()}-{abstract}"
    ear = hear("\0" + name if abstract else str(tmp_path / "n"))
    s = Server(env={"NOTIFY_SOCKET": "@" + name if abstract else str(tmp_path / "n")})
    assert ear.recv(100) == b"READY=1" and s.http.get("/readyz").status_code == 200
    assert s.stop() == 0 and ear.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("where", ["", "relative", "/nobody/listens/here", "/" + "x" * 300])
def test_nobody_to_notify_is_no_fault(where):
    s = Server(env={"NOTIFY_SOCKET": where})
    assert s.stop() == 0


def test_the_unit_is_valid_and_shut_in(tmp_path):
    text = (DEPLOY / "systemd/sparing.service").read_text()
    unit = tmp_path / "sparing.service"
    unit.write_text(text.replace("/usr/bin/sparing", str(BIN)))
    p = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert p.returncode == 0 and p.stderr == "", p.stderr
    p = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-300:]  # at most 2.0 of 10
    weak = tmp_path / "weak.service"
    weak.write_text("[Service]\nExecStart=/bin/true\n")  # the control: a bare unit is not shut in
    assert subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", str(weak)], capture_output=True).returncode != 0


def test_the_unit_s_users_are_made(tmp_path):
    (tmp_path / "etc").mkdir()
    p = subprocess.run(["systemd-sysusers", f"--root={tmp_path}", str(DEPLOY / "systemd/sparing.sysusers")], capture_output=True, text=True)
    assert p.returncode == 0 and re.search(r"^sparing:x:\d+:\d+:.*:/var/lib/sparing:", (tmp_path / "etc/passwd").read_text(), re.M), p.stderr


# --- health --------------------------------------------------------------------------------------


def test_health_says_what_the_server_says(server, tmp_path):
    assert run("health", "--port", str(server.port)).returncode == 0
    assert run("health", "--ready", "--host", "0.0.0.0", "--port", str(server.port)).returncode == 0
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # nobody listens
        p = run("health", "--port", str(s.getsockname()[1]), check=False)
        assert p.returncode == 1 and "/livez" in p.stderr
        s.listen()

        def answer():
            c, _ = s.accept()
            c.recv(4096)
            c.sendall(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n")
            c.close()

        threading.Thread(target=answer, daemon=True).start()
        p = run("health", "--ready", "--port", str(s.getsockname()[1]), check=False)
        assert p.returncode == 1 and "503" in p.stderr


# --- chart and manifests -------------------------------------------------------------------------

PEERS = {**ROLES, "peers": {"enabled": True, "clusterDomain": "cluster.example"}}
MANY = [{}, ROLES, PEERS, {"peers": {"enabled": True}}, {"placement": "places: []\nrules: []\n", "envSecret": "more", "models": {"pull": "smollm2-135m"}},
        {"networkPolicy": {"enabled": True, "from": [{"podSelector": {}}], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}},
        {"networkPolicy": {"enabled": False}, "config": {"max_run": 8, "kv_bytes": "1G", "lenient": True}, "roles": {"all": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "x"}], "config": {"max_run": 4}}}}]


def test_helm_finds_no_fault():
    found = lint(CHART, strict=True)
    assert found["errors"] == [] and [m for m in found["messages"] if "icon" not in m["error"]] == []


MODELS = {"ConfigMap": "V1ConfigMap", "Deployment": "V1Deployment", "StatefulSet": "V1StatefulSet", "Service": "V1Service", "NetworkPolicy": "V1NetworkPolicy",
          "PodDisruptionBudget": "V1PodDisruptionBudget", "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler"}
OWN = {"ServiceMonitor": {"selector", "endpoints"}, "InferencePool": {"selector", "targetPorts", "endpointPickerRef"}}


def check_fields(value, kind, where):
    """Every field is one that Kubernetes' own description has, and has its type."""
    inner = re.fullmatch(r"(?:list\[|dict\(str, )(.+)[\])]", kind)
    if inner:
        assert isinstance(value, list if kind.startswith("list") else dict), (where, kind)
        for k, v in enumerate(value) if isinstance(value, list) else value.items():
            check_fields(v, inner.group(1), f"{where}.{k}")
    elif hasattr(kubernetes.client, kind):
        cls = getattr(kubernetes.client, kind)
        names = {json_name: field for field, json_name in cls.attribute_map.items()}
        assert isinstance(value, dict), (where, kind)
        for k, v in value.items():
            assert k in names, f"{where}: {kind} has no {k}"
            check_fields(v, cls.openapi_types[names[k]], f"{where}.{k}")
    else:
        assert isinstance(value, {"str": str, "int": int, "bool": bool, "object": object}.get(kind, object)), (where, kind, value)


@pytest.mark.parametrize("values", MANY, ids=range(len(MANY)))
def test_objects_are_what_kubernetes_takes(values):
    objects = render(values)
    for o in objects:
        if o["kind"] in MODELS:
            check_fields(o, MODELS[o["kind"]], o["kind"])
        else:
            assert set(o["spec"]) == OWN[o["kind"]]
    names = [(o["kind"], o["metadata"]["name"]) for o in objects]
    assert len(set(names)) == len(names)
    with pytest.raises(AssertionError, match="has no replica"):  # the control
        check_fields({"spec": {"replica": 1}}, "V1Deployment", "x")


@pytest.mark.parametrize("values", MANY, ids=range(len(MANY)))
def test_pods_are_shut_in_and_selected(values):
    objects = render(values)
    deployments = of_kind(objects, "Deployment") + of_kind(objects, "StatefulSet")
    assert deployments
    for d in deployments:
        pod = d["spec"]["template"]["spec"]
        labels = d["spec"]["template"]["metadata"]["labels"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001 and pod["automountServiceAccountToken"] is False
        for c in pod["containers"] + pod.get("initContainers", []):
            assert c["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert {m["name"] for m in c["volumeMounts"]} <= {v["name"] for v in pod["volumes"]}
        for s in of_kind(objects, "Service") + of_kind(objects, "PodDisruptionBudget") + of_kind(objects, "InferencePool"):
            if s["metadata"]["name"] == d["metadata"]["name"]:
                chosen = s["spec"]["selector"].get("matchLabels", s["spec"]["selector"])
                assert chosen.items() <= labels.items() and d["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for h in of_kind(objects, "HorizontalPodAutoscaler"):
        target = h["spec"]["scaleTargetRef"]
        d = next(d for d in deployments if (d["kind"], d["metadata"]["name"]) == (target["kind"], target["name"]))
        assert "replicas" not in d["spec"]


def test_pods_that_reason_have_names_that_all_know():
    objects = render(PEERS)
    [named] = of_kind(objects, "StatefulSet")
    [service] = [s for s in of_kind(objects, "Service") if s["metadata"]["name"] == named["spec"]["serviceName"]]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"].items() <= named["spec"]["template"]["metadata"]["labels"].items()
    assert {d["metadata"]["name"] for d in of_kind(objects, "Deployment")} == {"demo-retrieval", "demo-generation"}
    most = ROLES["roles"]["reasoning"]["autoscaling"]["max"]
    for c in of_kind(objects, "ConfigMap"):
        assert yaml.safe_load(c["data"]["sparing.yaml"])["peers"] == ",".join(f"demo-reasoning-{i}:8430" for i in range(most))
    for d in of_kind(objects, "Deployment") + [named]:
        assert d["spec"]["template"]["spec"]["dnsConfig"]["searches"] == ["demo-reasoning-pods.ns.svc.cluster.example"]
    assert "peers" not in yaml.safe_load(of_kind(render(), "ConfigMap")[0]["data"]["sparing.yaml"])


def test_probes_and_metrics_are_the_server_s(server):
    """Probes come without a key and by the pod's address; the chart scales by figures that there are."""
    objects = render(ROLES)
    names = {m.split("{")[0] for m in server.metrics()}
    for h in of_kind(objects, "HorizontalPodAutoscaler"):
        metrics = {m["pods"]["metric"]["name"] for m in h["spec"]["metrics"]}
        assert len(metrics) == 2 and metrics <= names
    assert {m["pods"]["target"]["averageValue"] for h in of_kind(objects, "HorizontalPodAutoscaler") for m in h["spec"]["metrics"]} == {"2", "4", "800m"}
    for d in of_kind(objects, "Deployment"):
        c = d["spec"]["template"]["spec"]["containers"][0]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert server.http.get(c[probe]["httpGet"]["path"], headers={"Host": "10.1.2.3:8420"}).status_code == 200
    assert server.http.get(of_kind(objects, "ServiceMonitor")[0]["spec"]["endpoints"][0]["path"]).status_code == 200


@pytest.mark.parametrize("values", MANY, ids=range(len(MANY)))
def test_the_server_takes_the_configuration(values, tmp_path):
    """As it stands in the ConfigMap, with the folders of this machine."""
    for c in of_kind(render(values), "ConfigMap"):
        file = tmp_path / f"{c['metadata']['name']}.yaml"
        file.write_text(c["data"]["sparing.yaml"])
        shown = json.loads(run("config", "--json", "--config", str(file)).stdout)
        role = c["metadata"]["name"].removeprefix("demo-")
        want = {**values.get("config", {}), **((values.get("roles") or {}).get(role) or {}).get("config", {})}
        for k, v in want.items():
            assert shown[k.replace("_", "-")]["value"] == str(v).lower().replace("1g", "1G"), (k, shown)
        keys = write_keys(tmp_path / "keys.txt", {"k": "t"})
        text = c["data"]["sparing.yaml"].replace("/var/lib/sparing", str(tmp_path)).replace("/etc/sparing-keys/keys.txt", keys).replace("/etc/sparing/", f"{tmp_path}/").replace("grpc: 0.0.0.0:8430", "grpc: 0.0.0.0:0")
        (tmp_path / "models").mkdir(exist_ok=True)
        if not (tmp_path / "models/small.gguf").exists():
            os.symlink(quick_file(), tmp_path / "models/small.gguf")
        (tmp_path / "placement.yaml").write_text(c["data"].get("placement.yaml", ""))
        (tmp_path / "run.yaml").write_text(text)
        s = Server("--config", str(tmp_path / "run.yaml"))
        host = next(line.split()[1] for line in text.splitlines() if line.startswith("allow_host")).split(",")[-1]
        assert s.http.get("/v1/models", headers={"Authorization": "Bearer k", "Host": f"{host}:8420"}).status_code == 200
        assert s.stop() == 0


@pytest.mark.parametrize("bad,says", [
    ({"image": {"repository": ""}}, "repository"),
    ({"colour": "red"}, "colour"),
    ({"models": {"claim": "a", "pull": "b"}}, "models"),
    ({"config": {"port": 80}}, "port"),
    ({"config": {"max_run": [1]}}, "max_run"),
    ({"roles": {"all": {"offers": ["everything"]}}}, "offers"),
    ({"roles": {"all": {"replicas": 0}}}, "replicas"),
    ({"roles": {"Bad Name": {"offers": ["all"], "replicas": 1, "resources": {}}}}, "Bad Name"),
    ({"roles": {"all": {"autoscaling": {"kvUsage": 80}}}}, "kvUsage"),
    ({"drainSeconds": "long"}, "drainSeconds"),
    ({"peers": {"enabled": True}, "roles": {"all": {"replicas": 33}}}, "33 pods write tickets"),
    ({"peers": {"clusterDomain": "No Domain"}}, "clusterDomain"),
    ({"inferencePool": {"enabled": True, "role": "nobody"}}, "no role nobody"),
])
def test_wrong_values_are_refused(bad, says):
    with pytest.raises(HelmError, match=says):
        render(bad)


def test_plain_manifests_are_the_chart_s():
    p = subprocess.run([sys.executable, str(ROOT / "scripts/manifests"), "--check"], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr


# --- Envoy ---------------------------------------------------------------------------------------


def typed(x, found):
    """Without what has a type of its own, which goes to found."""
    if isinstance(x, list):
        return [typed(v, found) for v in x]
    if not isinstance(x, dict):
        return x
    out = {k: typed(v, found) for k, v in x.items()}
    if "@type" in out:
        found.append(out)
        return None
    return {k: v for k, v in out.items() if not (v is None and isinstance(x[k], dict))}


def read_envoy(cfg):
    """Reads it by Envoy's own descriptions; a field that they do not have is an error."""
    found = []
    plain = typed(cfg, found)
    for f in found:
        module, name = f.pop("@type").split("/")[1].rsplit(".", 1)
        getattr(importlib.import_module(f"envoy_data_plane.{module}"), name).from_dict({k: v for k, v in f.items() if v is not None})
    return importlib.import_module("envoy_data_plane.envoy.config.bootstrap.v3").Bootstrap.from_dict(plain)


def test_envoy_sends_each_role_s_calls_to_its_servers():
    text = (DEPLOY / "envoy/envoy.yaml").read_text()
    cfg = yaml.safe_load(text)
    boot = read_envoy(cfg)
    with pytest.raises(KeyError):  # the control
        read_envoy({**cfg, "nonsense": 1})
    services = set(re.findall(r"^service (\w+)", (ROOT / "proto/sparing/v1/sparing.proto").read_text(), re.M))
    manager = cfg["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert {m for r in routes for m in re.findall(r"^/sparing[.]v1[.](\w+)/$", r["match"]["prefix"])} == services
    clusters = {c.name for c in boot.static_resources.clusters}
    assert {r["route"]["cluster"] for r in routes if "route" in r} == clusters
    for c in cfg["static_resources"]["clusters"]:
        assert c["health_checks"][0]["grpc_health_check"]["service_name"] == f"sparing.v1.{c['name'].capitalize()}"


# --- the image -----------------------------------------------------------------------------------


def test_the_image_s_packages_are_what_the_program_needs():
    """Each library that it is linked with is of a package that the last stage installs, or of one that those need in any case."""
    text = (DEPLOY / "Containerfile").read_text().split("FROM ${BASE}\n")[1]
    named = set(re.findall(r"\b(lib[a-z0-9.+-]+)", text.split("rm -rf")[0]))
    linked = subprocess.run(["readelf", "-d", str(BIN)], capture_output=True, text=True, check=True).stdout
    for name in re.findall(r"NEEDED.*\[(.+)\]", linked):
        said = subprocess.run(["dpkg", "-S", f"*/{name}"], capture_output=True, text=True).stdout
        owners = {line.split(":")[0] for line in said.splitlines()}
        assert owners & (named | {"libc6", "libgcc-s1", "libglib2.0-0"}) or "san.so" in name, f"{name} of {owners}"


def buildah(store, *args, **kw):
    return subprocess.run(["buildah", "--root", f"{store}/root", "--runroot", f"{store}/run", "--storage-driver", "vfs", *args], check=True, capture_output=True, text=True, **kw)


@pytest.mark.long
def test_the_image_is_built_and_serves(tmp_path):
    """Built by buildah in a chroot over a Debian that mmdebstrap makes, as no registry is asked; run in a chroot as its user, with its
    root read-only. Registries, cgroups and network namespaces are not tried."""
    base = tmp_path / "base.tar"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(base)], check=True)
    c = buildah(tmp_path, "from", "scratch").stdout.strip()
    buildah(tmp_path, "add", c, str(base), "/")
    buildah(tmp_path, "commit", c, "localhost/base")
    buildah(tmp_path, "rm", c)
    buildah(tmp_path, "bud", "--isolation", "chroot", "--format", "docker", "--build-arg", "BASE=localhost/base", "-v", "/etc/apt/apt.conf.d:/etc/apt/apt.conf.d:ro",
            "-f", "deploy/Containerfile", "-t", "localhost/sparing", ".", cwd=ROOT)
    config = json.loads(buildah(tmp_path, "inspect", "--type", "image", "localhost/sparing").stdout)["Docker"]["config"]
    assert config["User"] == "10001:10001" and config["StopSignal"] == "SIGTERM" and "/var/lib/sparing" in config["Volumes"]
    assert config["Healthcheck"]["Test"][:3] == ["CMD", "/usr/bin/sparing", "health"] and config["Entrypoint"] == ["/usr/bin/sparing"]
    c = buildah(tmp_path, "from", "localhost/sparing").stdout.strip()
    root = buildah(tmp_path, "mount", c).stdout.strip()
    state = tmp_path / "state"
    (state / "models").mkdir(parents=True)
    shutil.copy(MODEL, state / "models")
    keys = write_keys(tmp_path / "keys.txt", {"k": "t"})
    for p in [state, *state.rglob("*"), tmp_path / "keys.txt"]:
        os.chown(p, 10001, 10001)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    script = f"""set -e
        mount --make-rprivate /
        mount --bind {root} {root}
        touch {root}/etc/sparing/keys.txt
        mount --bind {keys} {root}/etc/sparing/keys.txt
        mount --bind {state} {root}/var/lib/sparing
        mount -t tmpfs tmpfs {root}/tmp
        mount -t proc proc {root}/proc
        mount --bind /dev {root}/dev
        mount -o remount,ro,bind {root}
        exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
            env -i HOME=/var/lib/sparing PATH=/usr/bin:/bin SPARING_PORT={port} chroot-free"""
    inside = script.replace("exec setpriv", f"exec chroot {root} setpriv").replace("chroot-free", "sh -c '{}'")
    log = open(tmp_path / "log", "w")
    serve = subprocess.Popen(["unshare", "--mount", "sh", "-c", inside.replace("{}", "exec sparing serve --config /etc/sparing/sparing.yaml")], stderr=log)
    try:
        http = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer k"}, timeout=PATIENCE)

        def is_ready():
            assert serve.poll() is None, (tmp_path / "log").read_text()
            try:
                return http.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_ready, "the server of the image")
        r = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})
        assert r.status_code == 200 and r.json()["usage"]["completion_tokens"] > 0
        say = "id -u; sparing health --port $SPARING_PORT && echo healthy; touch /usr/bin/x || echo read-only; touch /var/lib/sparing/y && echo kept; which pdftotext prlimit"
        p = subprocess.run(["unshare", "--mount", "sh", "-c", inside.replace("{}", say)], capture_output=True, text=True)
        assert p.stdout.split() == ["10001", "healthy", "read-only", "kept", "/usr/bin/pdftotext", "/usr/bin/prlimit"], p.stdout + p.stderr
    finally:
        serve.terminate()
        assert serve.wait(timeout=PATIENCE) == 0
