//! What made a pod, from its name and the labels that the controllers of Kubernetes put on their pods.

use axoneme_model::{LabelKey, Labels};

use crate::flow::Workload;

/// The workload of a pod; none for a pod that nobody made, and where its labels are not known.
///
/// A `ReplicaSet` that a Deployment made counts as the Deployment, as in Hubble. The labels are documented in
/// Kubernetes' "Well-Known Labels, Annotations and Taints".
pub(crate) fn of(pod: &str, labels: &Labels) -> Option<Workload> {
    let get = |key: &str| labels.get(&LabelKey::k8s(key));
    let workload = |name: &str, kind: &str| Some(Workload { name: name.to_owned(), kind: kind.to_owned() });
    let (without_last, last) = pod.rsplit_once('-')?;
    if let Some(job) = get("batch.kubernetes.io/job-name").or_else(|| get("job-name")) {
        return workload(job, "Job");
    }
    if let Some(hash) = get("pod-template-hash") {
        let name = without_last.strip_suffix(hash)?.strip_suffix('-')?;
        return workload(name, "Deployment");
    }
    if get("statefulset.kubernetes.io/pod-name").is_some() {
        return last.parse::<u32>().is_ok().then(|| workload(without_last, "StatefulSet"))?;
    }
    // both kinds of controller put it on; a StatefulSet's pods have the label above, too
    get("controller-revision-hash").and_then(|_| workload(without_last, "DaemonSet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_labels(pod: &str, labels: &[(&str, &str)]) -> Option<(String, String)> {
        let labels = labels.iter().fold(Labels::new(), |l, (k, v)| l.with(LabelKey::k8s(k), v));
        of(pod, &labels).map(|w| (w.kind, w.name))
    }

    #[test]
    fn pods_are_traced_to_what_made_them() {
        let found = |kind: &str, name: &str| Some((kind.to_owned(), name.to_owned()));
        assert_eq!(of_labels("web-1-7d4b9c-x2x4v", &[("pod-template-hash", "7d4b9c")]), found("Deployment", "web-1"));
        let stateful = [("statefulset.kubernetes.io/pod-name", "db-0"), ("controller-revision-hash", "db-5f")];
        assert_eq!(of_labels("db-0", &stateful), found("StatefulSet", "db"));
        assert_eq!(of_labels("proxy-abcde", &[("controller-revision-hash", "77")]), found("DaemonSet", "proxy"));
        assert_eq!(of_labels("sum-1-abcde", &[("job-name", "sum-1")]), found("Job", "sum-1"));
        assert_eq!(of_labels("web-a", &[("app", "web")]), None);
        assert_eq!(of_labels("bare", &[("pod-template-hash", "1")]), None);
        assert_eq!(of_labels("renamed-by-hand", &[("pod-template-hash", "77")]), None);
    }
}
