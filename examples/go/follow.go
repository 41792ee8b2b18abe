// Follows releases of a project and prints each as a JSON line: go run . PROJECT DURABLE_NAME
//
// Environment: MAINSPRING_NATS_URL, which `mainspring up` writes to `nats-subscriber-url` in its data folder. The bus
// remembers our place under the durable name: after a break, the same name goes on where it was.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	stream = "MAINSPRING_EVENTS"
	// Ids that are remembered, since the bus delivers at least once.
	remembered = 10_000
)

var wanted = []string{"mainspring.registry.model.released.v1", "mainspring.registry.model.release_revoked.v1"}

func main() {
	if len(os.Args) != 3 || os.Getenv("MAINSPRING_NATS_URL") == "" {
		fmt.Fprintln(os.Stderr, "set MAINSPRING_NATS_URL, and run: go run . PROJECT DURABLE_NAME")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := follow(ctx, os.Getenv("MAINSPRING_NATS_URL"), os.Args[1], os.Args[2], print); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// follow calls handle with each release and revocation, one at a time and in order. An event is acknowledged when handle is done with
// it; one that handle fails at comes again.
func follow(ctx context.Context, address, project, durable string, handle func(map[string]any) error) error {
	connection, err := nats.Connect(address, nats.MaxReconnects(-1), nats.Name("example-"+durable))
	if err != nil {
		return fmt.Errorf("connecting to the bus: %w", err)
	}
	defer connection.Close()
	bus, err := jetstream.New(connection)
	if err != nil {
		return err
	}
	consumer, err := bus.Consumer(ctx, stream, durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		begin := time.Now()
		consumer, err = bus.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
			Durable: durable,
			// One filter: the bus decides by it what we may follow.
			FilterSubject: "mainspring.events." + project + ".registry.model.>",
			AckPolicy:     jetstream.AckExplicitPolicy,
			// One at a time: a redelivery must not come after a later event.
			MaxAckPending: 1,
			DeliverPolicy: jetstream.DeliverByStartTimePolicy,
			OptStartTime:  &begin,
		})
	}
	if err != nil {
		return fmt.Errorf("subscribing as %s: %w", durable, err)
	}
	seen, order := map[string]bool{}, []string{}
	for ctx.Err() == nil {
		message, err := consumer.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			continue // Nothing came, or the connection is being made again.
		}
		event, err := cloudEvent(message)
		if err != nil {
			return err
		}
		id := event["id"].(string)
		if slices.Contains(wanted, event["type"].(string)) && !seen[id] {
			if err := handle(event); err != nil {
				return errors.Join(err, message.Nak())
			}
			seen[id], order = true, append(order, id)
			if len(order) > remembered {
				delete(seen, order[0])
				order = order[1:]
			}
		}
		if err := message.DoubleAck(ctx); err != nil {
			return err
		}
	}
	return nil
}

// cloudEvent reads the attributes from the headers, percent-decoded as the NATS binding wants it, and data from the body.
func cloudEvent(message jetstream.Msg) (map[string]any, error) {
	event := map[string]any{"id": "", "type": ""}
	for name, values := range message.Headers() {
		if attribute, found := strings.CutPrefix(strings.ToLower(name), "ce-"); found {
			value, err := url.PathUnescape(values[0])
			if err != nil {
				return nil, fmt.Errorf("attribute %s: %w", attribute, err)
			}
			event[attribute] = value
		}
	}
	var data map[string]any
	if err := json.Unmarshal(message.Data(), &data); err != nil {
		return nil, fmt.Errorf("event %s: %w", event["id"], err)
	}
	event["data"] = data
	return event, nil
}

func print(event map[string]any) error {
	return json.NewEncoder(os.Stdout).Encode(event)
}
