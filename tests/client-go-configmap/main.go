// Command client-go-configmap is a candidate that campaigns with the leader election of an old
// client-go, the last one with locks on ConfigMaps (v0.23).
//
// It speaks as the program beside it, ../client-go: it prints `started`, `stopped` and
// `leader NAME`, and on the line `release` on its standard input it gives the lock up and ends.
// With -kind=configmapsleases it campaigns for the Lease of the same name as well, as components did
// that moved
// from the one to the other.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the kubeconfig")
	namespace := flag.String("namespace", "default", "the namespace of the lock")
	lock := flag.String("lock", "", "the name of the lock")
	identity := flag.String("identity", "", "who we are")
	kind := flag.String("kind", resourcelock.ConfigMapsResourceLock, "configmaps, configmapsleases or leases")
	lease := flag.Duration("lease", 15*time.Second, "LeaseDuration")
	deadline := flag.Duration("deadline", 10*time.Second, "RenewDeadline")
	retry := flag.Duration("retry", 2*time.Second, "RetryPeriod")
	read := flag.Bool("read", false, "read the records of the names on the standard input, and end")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		fail(err)
	}
	if *read {
		readRecords(config, *namespace)
		return
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fail(err)
	}
	ctx, release := context.WithCancel(context.Background())
	defer release()
	go func() {
		// The end of the input ends us as well: nobody is left to speak to.
		input := bufio.NewScanner(os.Stdin)
		for input.Scan() && input.Text() != "release" {
		}
		release()
	}()
	var output sync.Mutex
	say := func(format string, args ...any) {
		output.Lock()
		defer output.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	meta := metav1.ObjectMeta{Namespace: *namespace, Name: *lock}
	own := resourcelock.ResourceLockConfig{Identity: *identity}
	onMap := &resourcelock.ConfigMapLock{ConfigMapMeta: meta, Client: client.CoreV1(), LockConfig: own}
	onLease := &resourcelock.LeaseLock{LeaseMeta: meta, Client: client.CoordinationV1(), LockConfig: own}
	var on resourcelock.Interface
	switch *kind {
	case resourcelock.ConfigMapsResourceLock:
		on = onMap
	case resourcelock.ConfigMapsLeasesResourceLock:
		on = &resourcelock.MultiLock{Primary: onMap, Secondary: onLease}
	case resourcelock.LeasesResourceLock:
		on = onLease
	default:
		fail(fmt.Errorf("no such kind: %s", *kind))
	}
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock:            on,
		LeaseDuration:   *lease,
		RenewDeadline:   *deadline,
		RetryPeriod:     *retry,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { say("started") },
			OnStoppedLeading: func() { say("stopped") },
			OnNewLeader:      func(leader string) { say("leader %s", leader) },
		},
	})
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
