// Command etcd-go hands elections over with etcd's own Go library, for the benchmark of the etcd
// backend beside it.
//
// For each line on its standard input two candidates, each with a client and a session of its own,
// share one election. When the second has waited for as many milliseconds as the line says, the
// first resigns, and the nanoseconds until the second knows that it leads are printed.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

func main() {
	endpoint := flag.String("endpoint", "", "host:port of a member")
	name := flag.String("election", "", "the name of the election")
	flag.Parse()

	ctx := context.Background()
	connect := func() *clientv3.Client {
		config := clientv3.Config{
			Endpoints:   []string{*endpoint},
			DialTimeout: 10 * time.Second,
			Logger:      zap.NewNop(),
		}
		client, err := clientv3.New(config)
		check(err)
		return client
	}
	candidate := func() *concurrency.Election {
		session, err := concurrency.NewSession(connect(), concurrency.WithTTL(600))
		check(err)
		return concurrency.NewElection(session, *name)
	}
	looking := connect()
	first, second := candidate(), candidate()
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		check(first.Campaign(ctx, "first"))
		elected := make(chan time.Time)
		go func() {
			check(second.Campaign(ctx, "second"))
			elected <- time.Now()
		}()
		for queued := int64(0); queued < 2; {
			found, err := looking.Get(ctx, *name+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			check(err)
			queued = found.Count
		}
		wait, err := strconv.Atoi(input.Text())
		check(err)
		time.Sleep(time.Duration(wait) * time.Millisecond)
		began := time.Now()
		check(first.Resign(ctx))
		fmt.Println((<-elected).Sub(began).Nanoseconds())
		check(second.Resign(ctx))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
