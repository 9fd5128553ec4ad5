//go:build tools

// Package hubble pins a stock Hubble client: the compatibility tests run it against the agent.
package hubble

import _ "github.com/cilium/cilium/hubble"
