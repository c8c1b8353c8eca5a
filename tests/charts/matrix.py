"""Ways of installing the chart that differ in what matters. (P)"""

from __future__ import annotations

from tests.charts.chart import Case, Tree, case, example, examples

HOSTILE = "a\"b'c: d\n- e\t{{ .Release.Name }} #f \\ é\u2028 "
"""What could end a string, begin another member or be taken for a template."""
ALL_ON: Tree = {
    "inferGateway": {
        "replicas": 3,
        "tls": {"enabled": True, "dnsName": "llm.example.com", "secretName": "certificate"},
        "fairness": {"enabled": True, "queueQPS": 100, "maxConcurrent": 512},
        "image": {"digest": "sha256:" + "0" * 64},
    },
    "config": {
        "auth": {
            "issuers": [{"issuer": "https://a.example/", "jwksUri": "https://a.example/keys", "audiences": ["x"]}]
        },
        "limits": [{"match": {"tier": "free"}, "totalTokensPerMonth": 1_000_000_000_000, "requestsPerMinute": 60}],
        "listeners": {"http": {"maxBodyBytes": 268435456}, "extProc": {"fallbacks": 0, "linger": "10s"}},
        "fairness": {"maxQueuedBytes": 1073741824, "headroom": 0.1, "tiers": {"gold": {"weight": 4, "priority": 10}}},
        "scheduler": {"profiles": {"batch": {"picker": "power-of-two"}}},
        "timeouts": {"request": 0, "connect": "1.5s"},
        "drainTimeout": "1m30s",
        "tracing": {"endpoint": "http://collector:4318", "sampleRatio": 0.1},
    },
    "apiKeys": {"secretName": "keys"},
    "kubernetes": {
        "gatewayAPI": True,
        "gatewayPorts": [8081, 30000],
        "secrets": {"enabled": True, "names": ["openai"]},
    },
    "backends": ["vllm=http://vllm:8000", "auto=https://other"],
    "resources": [
        {
            "apiVersion": "networking.serving.volcano.sh/v1alpha1",
            "kind": "ModelServer",
            "metadata": {"name": "static", "namespace": "models"},
            "spec": {"inferenceEngine": "vLLM", "endpoints": ["http://10.0.0.1:8000"]},
        }
    ],
    "service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"], "annotations": {"a/b": "true"}},
    "grpc": {"service": {"headless": True}},
    "accessLog": {"enabled": True, "format": "text"},
    "endpointPicker": {
        "enabled": True,
        "tls": "secret",
        "inferencePool": {"create": True, "matchLabels": {"app": "vllm"}, "targetPorts": [8000, 8001]},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "eg"}], "hostnames": ["llm.example.com"]},
        "envoyExtensionPolicy": {"enabled": True, "responseBodyMode": "Streamed"},
    },
    "gatewayClass": {"create": True},
    "gateway": {"create": True},
    "autoscaling": {
        "enabled": True,
        "metrics": [
            {
                "type": "Pods",
                "pods": {
                    "metric": {"name": "infer_gateway_queue_requests"},
                    "target": {"type": "AverageValue", "averageValue": "50"},
                },
            }
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
    },
    "podDisruptionBudget": {"enabled": True, "minAvailable": "50%"},
    "networkPolicy": {
        "http": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
    "serviceMonitor": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "scrapeProtocols": ["OpenMetricsText1.0.0"],
    },
    "prometheusRule": {"enabled": True, "alertLabels": {"team": "ml"}, "runbookUrl": "https://git.example/llm/"},
    "admin": {"tls": True, "anonymousMetrics": False, "token": {"key": "secret"}},
    "dashboard": {"enabled": True, "annotations": {"folder": "LLM"}},
    "valkey": {"enabled": True, "persistence": {"enabled": True, "storageClass": "fast"}},
    "certManager": {"enabled": True},
    "podAnnotations": {"a": "1"},
    "podLabels": {"team": "ml", "app.kubernetes.io/name": "not-ours"},
    "imagePullSecrets": [{"name": "pull"}],
    "priorityClassName": "high",
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    "extraEnv": [{"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
    "extraEnvFrom": [{"secretRef": {"name": "more"}}],
    "extraVolumes": [{"name": "models", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "models", "mountPath": "/models"}],
    "tests": {"model": "llama", "select": "not tools", "apiKeySecret": {"name": "key"}},
}
ALL_OFF: Tree = {
    "kubernetes": {"enabled": False},
    "grpc": {"enabled": False},
    "admin": {"service": {"enabled": False}, "token": {"create": False}, "anonymousMetrics": False},
    "networkPolicy": {"enabled": False},
    "serviceAccount": {"create": False},
    "rbac": {"create": False},
    "tests": {"enabled": False},
    "preStopSleepSeconds": 0,
}
NAMESPACED: Tree = {"kubernetes": {"namespaces": ["team-a", "team-b"], "gatewayAPI": True}}
KEDA: Tree = {"enabled": True, "prometheus": {"serverAddress": "http://prometheus:9090"}}
TLS: Tree = {"inferGateway": {"tls": {"enabled": True}}}
PICKER: Tree = {"enabled": True, "pool": "llama"}

CASES: dict[str, Case] = {
    **{f"example {path.stem}": example(path.stem) for path in examples()},
    "defaults": case(),
    "disabled": case({"inferGateway": {"enabled": False}}),
    "everything": case(ALL_ON),
    "nothing": case(ALL_OFF),
    "namespaced": case(NAMESPACED),
    "its own namespace only": case({"kubernetes": {"namespaces": ["models"], "status": False}}),
    "no extension": case({"kubernetes": {"inferenceExtension": False}}),
    "gateway API": case({"kubernetes": {"gatewayAPI": True}, "gatewayClass": {"create": True, "name": "llm"}}),
    "TLS by a Secret": case(TLS),
    "TLS by an issuer": case(TLS | {"certManager": {"enabled": True, "issuerRef": {"name": "ca", "kind": "Issuer"}}}),
    "picker": case({"endpointPicker": PICKER}),
    "picker without cluster": case(
        {"endpointPicker": {"enabled": True, "tls": "off"}, "kubernetes": {"enabled": False}}
    ),
    "picker of a pool elsewhere": case({"endpointPicker": PICKER | {"pool": "other/llama"}}),
    "KEDA": case({"keda": KEDA}),
    "Valkey of somebody": case({"valkey": {"enabled": True, "existingSecret": "given"}}),
    "Redis": case({"config": {"state": {"redis": {"url": "rediss://redis.example:6379/0"}}}}),
    "IPv6": case({"host": "[::]"}),
    "long names": case(release="r" * 53, namespace="n" * 63),
    "names with dots": case(release="my.release.v1", namespace="a"),
    "given names": case({"fullnameOverride": "x" * 63, "nameOverride": "gw"}),
    "contained name": case(release="my-infer-gateway-2"),
    "hostile strings": case(
        {
            "config": {"auth": {"apiKeys": [{"name": HOSTILE, "keySha256": "0" * 64, "tenant": HOSTILE}]}},
            "service": {"annotations": {"note": HOSTILE}},
            "podAnnotations": {"note": HOSTILE},
            "serviceAccount": {"annotations": {"note": HOSTILE}},
            "prometheusRule": {"enabled": True, "runbookUrl": HOSTILE, "alertLabels": {"note": HOSTILE}},
            "extraArgs": ["--log-level", "debug"],
            "extraEnv": [{"name": "NOTE", "value": HOSTILE}],
            "tests": {"model": HOSTILE, "select": HOSTILE},
            "keda": {"enabled": True, "prometheus": {"serverAddress": HOSTILE, "query": HOSTILE}},
            "resources": [
                {
                    "apiVersion": "networking.serving.volcano.sh/v1alpha1",
                    "kind": "ModelServer",
                    "metadata": {"name": "hostile"},
                    "spec": {"inferenceEngine": "vLLM", "endpoints": ["http://10.0.0.1:8000"], "model": HOSTILE},
                }
            ],
        }
    ),
}
