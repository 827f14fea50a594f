"""What users of the Python client do, against a server whose kubeconfig is named on the command
line. Ends with a line `done`, or with an exception that says what is different."""

import sys
import threading
import time

from kubernetes import client, config, dynamic, watch

SHIRTS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "shirts.stable.example.com"},
    "spec": {
        "group": "stable.example.com",
        "scope": "Namespaced",
        "names": {"plural": "shirts", "kind": "Shirt"},
        "versions": [{
            "name": "v1", "served": True, "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"colour": {"type": "string"}}}}}},
        }],
    },
}
DEPLOYMENT = {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
    "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "registry.example/none:1"}]}}},
}


def until(what, ask):
    """Waits for a condition."""
    deadline = time.time() + 30
    while time.time() < deadline:
        if ask():
            return
        time.sleep(0.05)
    raise AssertionError("not in time: " + what)


def same(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r} is not {wanted!r}")


def config_maps(core):
    made = core.create_namespaced_config_map(
        "py", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a"), data={"k": "v"}))

    def later():
        core.patch_namespaced_config_map("a", "py", {"data": {"x": "y"}})
        core.delete_namespaced_config_map("a", "py")

    threading.Thread(target=later).start()
    seen = []
    changes = watch.Watch()
    for event in changes.stream(core.list_namespaced_config_map, "py", timeout_seconds=20,
                                resource_version=made.metadata.resource_version,
                                field_selector="metadata.name=a"):
        seen.append((event["type"], event["object"].data))
        if event["type"] == "DELETED":
            changes.stop()
    same([kind for kind, _ in seen], ["MODIFIED", "DELETED"])
    same(seen[0][1], {"k": "v", "x": "y"})


def deployments(core, apps):
    apps.create_namespaced_deployment("py", DEPLOYMENT)
    until("two pods", lambda: len(core.list_namespaced_pod("py").items) == 2)
    scale = apps.patch_namespaced_deployment_scale("d", "py", {"spec": {"replicas": 3}})
    same(scale.spec.replicas, 3)
    until("three pods", lambda: apps.read_namespaced_deployment_status("d", "py").status.replicas == 3)


def custom_objects():
    client.ApiextensionsV1Api().create_custom_resource_definition(SHIRTS)
    objects = client.CustomObjectsApi()
    where = ("stable.example.com", "v1", "py", "shirts")

    def served():
        try:
            return objects.list_namespaced_custom_object(*where)["kind"] == "ShirtList"
        except client.ApiException as refused:
            same(refused.status, 404)
            return False

    until("shirts to be served", served)
    shirt = {"apiVersion": "stable.example.com/v1", "kind": "Shirt"}
    objects.create_namespaced_custom_object(*where, {**shirt, "metadata": {"name": "s"}, "spec": {"colour": "blue"}})
    kinds = dynamic.DynamicClient(client.ApiClient())
    shirts = kinds.resources.get(api_version="stable.example.com/v1", kind="Shirt")
    same(shirts.get(name="s", namespace="py").spec.colour, "blue")
    applied = {**shirt, "metadata": {"name": "t"}, "spec": {"colour": "red"}}
    same(shirts.server_side_apply(applied, namespace="py", field_manager="me").spec.colour, "red")


def refusals(core):
    try:
        core.create_namespaced_pod("py", {"metadata": {"name": "Bad"}, "spec": {"containers": []}})
    except client.ApiException as refused:
        same(refused.status, 422)
    else:
        raise AssertionError("a bad pod was taken")
    review = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}
    same(client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed, True)


def main():
    config.load_kube_config(sys.argv[1])
    core = client.CoreV1Api()
    core.create_namespace({"metadata": {"name": "py"}})
    config_maps(core)
    deployments(core, client.AppsV1Api())
    custom_objects()
    refusals(core)
    core.delete_namespace("py")

    def gone():
        try:
            core.read_namespace("py")
            return False
        except client.ApiException as refused:
            same(refused.status, 404)
            return True

    until("the namespace to be gone", gone)
    print("done")


main()
