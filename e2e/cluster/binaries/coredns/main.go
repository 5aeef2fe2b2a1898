// CoreDNS with only the plug-ins that the test cluster's Corefile names.
//
// The stock binary links every plug-in, with the SDKs of several clouds; leaving them out makes the build a minute.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// A query passes through the plug-ins in this order. The template is last, other than in the stock binary: it answers
	// what is not the cluster's.
	dnsserver.Directives = []string{"ready", "errors", "log", "cache", "kubernetes", "template"}
	coremain.Run()
}
