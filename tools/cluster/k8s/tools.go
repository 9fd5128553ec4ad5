// Names the packages that the local cluster builds, so that `go mod tidy` keeps what they need.
//go:build tools

package tools

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
import _ "k8s.io/kubernetes/cmd/kube-controller-manager"
import _ "k8s.io/kubernetes/cmd/kube-scheduler"
import _ "k8s.io/kubernetes/cmd/kubelet"
import _ "k8s.io/kubernetes/cmd/kubectl"
import _ "k8s.io/kubernetes/cmd/kube-proxy"
import _ "k8s.io/kubernetes/test/images/agnhost"
