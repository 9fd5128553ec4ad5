// Names the packages that the local cluster builds, so that `go mod tidy` keeps what they need.
//go:build tools

package tools

import _ "go.etcd.io/etcd/server/v3"
