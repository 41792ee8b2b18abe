module example.com/mainspring-follow

go 1.23

require github.com/nats-io/nats.go v1.48.0
