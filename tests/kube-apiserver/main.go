// Command kube-apiserver is the API server of the Kubernetes release that go.mod pins.
//
// The Kubernetes backends are tested against a real API server and not against a fake. This module
// exists so that one can be built from its released sources with nothing but a Go toolchain; it holds
// no code of its own beyond what the release's own main package does.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
