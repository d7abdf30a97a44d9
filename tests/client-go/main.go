// Command client-go is a candidate that campaigns with client-go's own leader election.
//
// The Kubernetes backends claim to take part in the elections of client-go; this is the other side
// in the tests of that claim. It prints a line for each thing that happens (`started`, `stopped`,
// `leader NAME`), and on the line `release` on its standard input it gives the lock up and ends.
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
	lease := flag.Duration("lease", 15*time.Second, "LeaseDuration")
	deadline := flag.Duration("deadline", 10*time.Second, "RenewDeadline")
	retry := flag.Duration("retry", 2*time.Second, "RetryPeriod")
	read := flag.Bool("read", false, "read the records of the names on the standard input, and end")
	many := flag.Int("many", 0, "lead on so many locks, whose names begin with that of the lock")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		fail(err)
	}
	if *read {
		readRecords(config, *namespace)
		return
	}
	if *many > 0 {
		leadMany(config, *namespace, *lock, *many, times{*lease, *deadline, *retry})
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
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: *namespace, Name: *lock},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: *identity},
		},
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
