# shellcheck shell=bash
#
# One Kafka broker that is its own controller, in the control namespace.
#
# Two listeners on the bridge address. A client goes on with the name that the listener it asked advertises, so pods ask
# the one that advertises the Service, and clients that cannot resolve that name the one that advertises the address.

kafka_start() {
    local directory=$CLUSTER_DIR/kafka
    if [[ ! -e $directory/data/meta.properties ]]; then
        mkdir -p "$directory"
        kafka_config >"$directory/server.properties"
        # A half-written folder would not be formatted again.
        rm -rf "$directory/data"
        # Version 2 of transactions: every transaction has its own epoch, so a late write of a former one is refused.
        kafka_java kafka.tools.StorageTool format --config "$directory/server.properties" \
            --cluster-id MillraceTestClusterAAA --feature transaction.version=2 >"$directory/format.log" 2>&1 ||
            fail "Kafka's storage could not be formatted (log: $directory/format.log)"
    fi
    # Only the first compiler: the start takes a third less of the processor, and the last of the throughput is not tested here.
    process_start kafka nsenter --net="/run/netns/$CONTROL_NETWORK" \
        java -Xms256m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$(binaries_dir kafka)/jars/*" \
        -Dorg.slf4j.simpleLogger.showDateTime=true -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS \
        kafka.Kafka "$directory/server.properties"
}

kafka_wait() {
    wait_for Kafka 60 grep -q 'Kafka Server started' "$(process_log_file kafka)"
}

kafka_java() {
    java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$(binaries_dir kafka)/jars/*" "$@"
}

# One broker, so one replica of everything; few partitions of the internal topics, so that the first use is fast. A killed
# broker is not let in again before its former session has ended: 4 s instead of 9.
kafka_config() {
    cat <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@$CONTROL_ADDRESS:$KAFKA_CONTROLLER_PORT
controller.listener.names=CONTROLLER
listeners=SERVICE://$CONTROL_ADDRESS:$KAFKA_PORT,ADDRESS://$CONTROL_ADDRESS:$KAFKA_ADDRESS_PORT,CONTROLLER://$CONTROL_ADDRESS:$KAFKA_CONTROLLER_PORT
advertised.listeners=SERVICE://kafka.infra.svc:$KAFKA_PORT,ADDRESS://$CONTROL_ADDRESS:$KAFKA_ADDRESS_PORT
listener.security.protocol.map=SERVICE:PLAINTEXT,ADDRESS:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=ADDRESS
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
log.dirs=$CLUSTER_DIR/kafka/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
END
}
