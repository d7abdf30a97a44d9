package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// readRecords prints what client-go reads in each of the Leases whose names come on the standard
// input: its record as JSON, or `refused`.
func readRecords(config *rest.Config, namespace string) {
	// No limit of requests a second.
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fail(err)
	}
	names := bufio.NewScanner(os.Stdin)
	for names.Scan() {
		name := names.Text()
		var lock resourcelock.Interface = &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Client:    client.CoordinationV1(),
		}
		record, _, err := lock.Get(context.Background())
		if err != nil {
			fmt.Println("refused")
			fmt.Fprintln(os.Stderr, name, err)
			continue
		}
		text, err := json.Marshal(record)
		if err != nil {
			fail(err)
		}
		fmt.Println(string(text))
	}
}
