package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// times are client-go's LeaseDuration, RenewDeadline and RetryPeriod.
type times struct{ lease, deadline, retry time.Duration }

// leadMany leads on many locks, each with a client and a transport of its own, until the standard
// input ends. It prints `leads NUMBER` and `stopped NUMBER deadline`, and `ready` when all campaign.
func leadMany(config *rest.Config, namespace, lock string, many int, rhythm times) {
	var output sync.Mutex
	say := func(format string, args ...any) {
		output.Lock()
		defer output.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	for number := range many {
		go func() {
			own := rest.CopyConfig(config)
			// client-go shares a transport between configurations that are alike; these differ by their dialer.
			own.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
			// As controller-runtime does.
			own.Timeout = rhythm.deadline / 2
			client, err := kubernetes.NewForConfig(own)
			if err != nil {
				fail(err)
			}
			time.Sleep(rhythm.retry * time.Duration(number) / time.Duration(many))
			for {
				lead(client, namespace, lock, number, rhythm, say)
			}
		}()
	}
	time.Sleep(rhythm.retry)
	say("ready")
	// What is read does not matter, nor why it ends.
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func lead(client kubernetes.Interface, namespace, lock string, number int, rhythm times, say func(string, ...any)) {
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%d", lock, number)},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: fmt.Sprintf("leader-%d", number)},
		},
		LeaseDuration: rhythm.lease,
		RenewDeadline: rhythm.deadline,
		RetryPeriod:   rhythm.retry,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { say("leads %d", number) },
			OnStoppedLeading: func() { say("stopped %d deadline", number) },
		},
	})
	if err != nil {
		fail(err)
	}
	elector.Run(context.Background())
}
