//! A Kafka broker on loopback, and what a test does with it. `MILLRACE_TEST_KAFKA` names the folder of Kafka's jars.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DescribeTransactionsRequest, EndTxnRequest,
    InitProducerIdRequest, ListTransactionsRequest, ProduceRequest, ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use millrace::clock::Clock;
use millrace::kafka::{Client, KafkaError, name};
use millrace::transport::Tcp;

use crate::harness::wait_until;

/// How often a consumer that finds too little is started again.
const CONSUMER_TRIES: usize = 20;

/// The rows that tests append have times of 1970: half a minute after its start a broker would delete them for their age.
const KEEP_ALL: &str = "log.retention.ms=-1\n";

/// Codes of an unknown partition, of one without a leader, and of one that another broker leads.
const NOT_LEADING: [i16; 3] = [3, 5, 6];

/// Code of records that are there already.
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;

/// A broker that is its own controller; ends with this value.
pub struct Broker {
    folder: tempfile::TempDir,
    process: Child,
    address: String,
    /// The port of its controller.
    controller: u16,
    secured: Option<Secured>,
    runtime: tokio::runtime::Runtime,
}

/// A listener with TLS that lets in only who has a certificate and logs in.
pub struct Secured {
    pub address: String,
    /// The certificate that the broker's own comes from, and a client's certificate and key, all PEM.
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

/// Users of the secured listener, by mechanism, with their passwords.
pub const PLAIN_USER: (&str, &str) = ("ann", "plain-password");
pub const SCRAM_USER: (&str, &str) = ("bob", "scram-password");

fn java(class: &str) -> Command {
    let jars = std::env::var("MILLRACE_TEST_KAFKA")
        .expect("MILLRACE_TEST_KAFKA names the jars; run `make test-real`");
    let mut java = Command::new("java");
    java.args([
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        &format!("{jars}/*"),
        class,
    ]);
    java.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    java
}

/// A port that nobody listens at. It is none of those that the kernel gives to connections: one of them could take it before a server
/// does, or while a server is started again.
pub fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id() * 97 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + number % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Makes certificates, and what the broker's settings say of the listener.
fn secured_listener(folder: &Path) -> (Secured, String) {
    let openssl = |arguments: &str| {
        let arguments = arguments.split_whitespace();
        let made = Command::new("openssl").current_dir(folder).args(arguments).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {curve} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"));
    fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["broker", "client"] {
        openssl(&format!("req {curve} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
        ));
    }
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    fs::write(folder.join("store.pem"), read("broker.key") + &read("broker.pem")).unwrap();
    let (place, prefix) = (folder.display(), "listener.name.safe");
    let ((user, password), modules) = (PLAIN_USER, "org.apache.kafka.common.security");
    let settings = format!(
        "{prefix}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         {prefix}.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required user_{user}=\"{password}\";\n\
         {prefix}.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;\n\
         {prefix}.scram-sha-512.sasl.jaas.config={modules}.scram.ScramLoginModule required;\n\
         {prefix}.ssl.keystore.type=PEM\n{prefix}.ssl.keystore.location={place}/store.pem\n\
         {prefix}.ssl.truststore.type=PEM\n{prefix}.ssl.truststore.location={place}/ca.pem\n\
         {prefix}.ssl.client.auth=required\n"
    );
    let address = format!("127.0.0.1:{}", free_port());
    let secured = Secured {
        address,
        authority: read("ca.pem"),
        certificate: read("client.pem"),
        key: read("client.key"),
    };
    (secured, settings)
}

fn transactional(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}

impl Broker {
    /// Starts a broker whose transactions are of this level.
    pub fn start(transaction_level: u32) -> Self {
        Self::start_with(transaction_level, false, "")
    }

    /// Starts a broker that has a secured listener, too.
    pub fn start_secured() -> Self {
        Self::start_with(2, true, "")
    }

    /// Starts a broker that forgets transactional ids within a second once they are not used.
    pub fn start_forgetful() -> Self {
        let settings = "transactional.id.expiration.ms=1000\n\
                        transaction.remove.expired.transaction.cleanup.interval.ms=200\nproducer.id.expiration.ms=1000\n";
        Self::start_with(2, false, settings)
    }

    /// How the secured listener is reached.
    pub fn secured(&self) -> &Secured {
        self.secured.as_ref().expect("the broker was started with a secured listener")
    }

    fn start_with(transaction_level: u32, is_secured: bool, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, controller) = (free_port(), free_port());
        let secured = is_secured.then(|| secured_listener(folder.path()));
        let (listener, settings) = match &secured {
            Some((secured, settings)) => (format!(",SAFE://{}", secured.address), settings.as_str()),
            None => (String::new(), ""),
        };
        let config = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\nlisteners=PLAIN://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listener}\n\
             advertised.listeners=PLAIN://127.0.0.1:{port}{listener}\n{settings}inter.broker.listener.name=PLAIN\n\
             listener.security.protocol.map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT,SAFE:SASL_SSL\nlog.dirs={}/data\n\
             {KEEP_ALL}broker.heartbeat.interval.ms=500\nbroker.session.timeout.ms=4000\n\
             auto.create.topics.enable=false\ngroup.initial.rebalance.delay.ms=0\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=2\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=2\ntransaction.abort.timed.out.transaction.cleanup.interval.ms=200\n\
             share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n{more}",
            folder.path().display()
        );
        let scram =
            |hash: &str| format!("SCRAM-SHA-{hash}=[name={},password={}]", SCRAM_USER.0, SCRAM_USER.1);
        let (short, long) = (scram("256"), scram("512"));
        let level = format!("transaction.version={transaction_level}");
        let format =
            ["--feature", level.as_str(), "--add-scram", short.as_str(), "--add-scram", long.as_str()];
        let secured = secured.map(|(secured, _)| secured);
        Self::run(folder, &config, &format, port, controller, secured)
    }

    /// Starts a second broker of the same cluster.
    pub fn start_second(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, controller) = (free_port(), self.controller);
        let config = format!(
            "process.roles=broker\nnode.id=2\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\nlisteners=PLAIN://127.0.0.1:{port}\ninter.broker.listener.name=PLAIN\n\
             listener.security.protocol.map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={}/data\n\
             {KEEP_ALL}broker.heartbeat.interval.ms=500\nbroker.session.timeout.ms=4000\n",
            folder.path().display()
        );
        let second = Self::run(folder, &config, &[], port, controller, None);
        wait_until("both brokers are known", || {
            let brokers = self.runtime.block_on(async { self.client().brokers().await });
            brokers.is_ok_and(|brokers| brokers.len() == 2)
        });
        second
    }

    /// Starts three brokers that are their controllers together, and keep all topics three times.
    pub fn start_three() -> [Self; 3] {
        let nodes = [1, 2, 3].map(|node| (node, free_port(), free_port()));
        let voters = nodes.map(|(node, _, controller)| format!("{node}@127.0.0.1:{controller}")).join(",");
        let brokers = nodes.map(|(node, port, controller)| {
            let folder = tempfile::tempdir().unwrap();
            let config = format!(
                "process.roles=broker,controller\nnode.id={node}\ncontroller.quorum.voters={voters}\n\
                 controller.listener.names=CONTROLLER\nlisteners=PLAIN://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 inter.broker.listener.name=PLAIN\nlistener.security.protocol.map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
                 log.dirs={}/data\n{KEEP_ALL}broker.heartbeat.interval.ms=500\nbroker.session.timeout.ms=3000\nmin.insync.replicas=2\n\
                 auto.create.topics.enable=false\ngroup.initial.rebalance.delay.ms=0\noffsets.topic.num.partitions=2\n\
                 transaction.state.log.num.partitions=3\ntransaction.abort.timed.out.transaction.cleanup.interval.ms=200\n\
                 leader.imbalance.check.interval.seconds=5\n",
                folder.path().display()
            );
            let format = ["--feature", "transaction.version=2"];
            Self::prepare(folder, &config, &format, port, controller, None)
        });
        brokers.iter().for_each(Broker::wait);
        wait_until("all brokers are known", || {
            let known = brokers[0].runtime.block_on(async { brokers[0].client().brokers().await });
            known.is_ok_and(|known| known.len() == 3)
        });
        brokers
    }

    fn run(
        folder: tempfile::TempDir,
        config: &str,
        format: &[&str],
        port: u16,
        controller: u16,
        secured: Option<Secured>,
    ) -> Self {
        let broker = Self::prepare(folder, config, format, port, controller, secured);
        broker.wait();
        broker
    }

    /// Starts a broker that may need others before it answers.
    fn prepare(
        folder: tempfile::TempDir,
        config: &str,
        format: &[&str],
        port: u16,
        controller: u16,
        secured: Option<Secured>,
    ) -> Self {
        let file = folder.path().join("server.properties");
        fs::write(&file, config).unwrap();
        let formatted = java("kafka.tools.StorageTool")
            .args(["format", "--cluster-id", "MillraceTestClusterAAA", "--config"])
            .arg(&file)
            .args(format)
            .output()
            .unwrap();
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let process = Self::spawn(&folder);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = format!("127.0.0.1:{port}");
        Broker { folder, process, address, controller, secured, runtime }
    }

    fn spawn(folder: &tempfile::TempDir) -> Child {
        let log = fs::File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
        let mut command = java("kafka.Kafka");
        command
            .arg(folder.path().join("server.properties"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn wait(&self) {
        wait_until("the broker answers", || {
            self.runtime
                .block_on(async { self.client().brokers().await.is_ok_and(|brokers| !brokers.is_empty()) })
        });
    }

    fn client(&self) -> Client {
        Client::new(vec![self.address.clone()], Arc::default(), Clock::system(), Arc::new(Tcp))
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Kills the broker and starts it again over its data.
    pub fn crash(&mut self) {
        self.kill();
        self.revive();
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts a killed broker again over its data.
    pub fn revive(&mut self) {
        self.process = Self::spawn(&self.folder);
        self.wait();
    }

    /// Makes a topic, which the first broker has.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.create(topic, (0..partitions).map(|_| vec![1]));
    }

    /// Makes a topic with one partition, which the second broker alone has.
    pub fn create_topic_at_second(&self, topic: &str) {
        self.create(topic, std::iter::once(vec![2]));
    }

    /// Makes a topic that all of three brokers have, and that each leads a part of.
    pub fn create_replicated_topic(&self, topic: &str, partitions: i32) {
        self.create(topic, (0..partitions).map(|index| (0..3).map(|n| (index + n) % 3 + 1).collect()));
    }

    /// Makes a topic at these brokers, a list a partition: left to themselves, brokers share topics as chance has it.
    fn create(&self, topic: &str, brokers: impl ExactSizeIterator<Item = Vec<i32>>) {
        let partitions = brokers.len();
        let at_brokers = |(index, brokers): (i32, Vec<i32>)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(index)
                .with_broker_ids(brokers.into_iter().map(BrokerId).collect())
        };
        let wanted = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments((0..).zip(brokers).map(at_brokers).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![wanted]).with_timeout_ms(10_000);
        let answer =
            self.runtime.block_on(async { self.client().call(&self.address, &request, 7).await }).unwrap();
        assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
        // The broker may not have heard of it from its controller yet.
        wait_until("the topic is there", || {
            self.runtime.block_on(async {
                let found = self.client().partitions(topic).await;
                found.is_ok_and(|found| found.len() == partitions && found.iter().all(|p| p.leader.is_some()))
            })
        });
    }

    /// Makes a topic's partitions more.
    pub fn grow_topic(&self, topic: &str, partitions: i32) {
        let wanted = CreatePartitionsTopic::default()
            .with_name(name(topic))
            .with_count(partitions)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![wanted]).with_timeout_ms(10_000);
        let answer =
            self.runtime.block_on(async { self.client().call(&self.address, &request, 3).await }).unwrap();
        assert_eq!(answer.results[0].error_code, 0, "{:?}", answer.results[0].error_message);
    }

    /// Appends rows to a partition, each a second after the one before, without a transaction; tries again while the broker is away. The
    /// brokers know a try that has come through although its answer did not.
    pub fn append(&self, topic: &str, partition: i32, rows: &[String]) {
        let records: Vec<_> = rows.iter().map(|row| (None, Some(row.as_str()))).collect();
        self.append_keyed(topic, partition, &records);
    }

    /// The same of keys and values, each of which may be none.
    pub fn append_keyed(&self, topic: &str, partition: i32, records: &[(Option<&str>, Option<&str>)]) {
        let bytes = |text: &Option<&str>| text.map(|text| Bytes::from(text.to_owned()));
        let (producer_id, producer_epoch) = self.producer();
        let record = |(index, (key, value)): (usize, &(Option<&str>, Option<&str>))| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id,
            producer_epoch,
            timestamp_type: TimestampType::Creation,
            offset: index as i64,
            sequence: index as i32,
            timestamp: 1000 * index as i64,
            key: bytes(key),
            value: bytes(value),
            headers: IndexMap::new(),
        };
        let records: Vec<Record> = records.iter().enumerate().map(record).collect();
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::Zstd };
        RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(bytes.freeze()));
        let data = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![data]);
        wait_until("the rows are appended", || {
            let mut client = self.client();
            let answer = async {
                let found = client.partitions(topic).await?;
                let leader = found.iter().find(|found| found.index == partition);
                let leader = leader.and_then(|found| found.leader.clone());
                client.call(&leader.unwrap_or(self.address.clone()), &request, 11).await
            };
            let answer = match self.runtime.block_on(answer) {
                Ok(answer) => answer,
                // The leader is gone, and that is not known yet.
                Err(KafkaError::Network { .. }) => return false,
                Err(error) => panic!("{topic} partition {partition}: {error:?}"),
            };
            let code = answer.responses[0].partition_responses[0].error_code;
            // After a start the broker may not lead the partition yet, or not any more.
            let is_there = code == 0 || code == DUPLICATE_SEQUENCE_NUMBER;
            assert!(is_there || NOT_LEADING.contains(&code), "{topic} partition {partition}: code {code}");
            is_there
        });
    }

    /// Id and epoch of a new producer without transactions.
    fn producer(&self) -> (i64, i16) {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let mut producer = None;
        wait_until("there is a new producer", || {
            let answer = async { self.client().call(&self.address, &request, 5).await };
            let answer = self.runtime.block_on(answer).ok().filter(|answer| answer.error_code == 0);
            producer = answer.map(|answer| (answer.producer_id.0, answer.producer_epoch));
            producer.is_some()
        });
        producer.unwrap()
    }

    /// Ids of transactions that are open.
    pub fn open_transactions(&self) -> Vec<String> {
        let request = ListTransactionsRequest::default()
            .with_state_filters(vec![StrBytes::from_static_str("Ongoing")])
            .with_duration_filter(-1);
        let listed = async { self.client().call(&self.address, &request, 1).await };
        let listed = self.runtime.block_on(listed).unwrap();
        listed.transaction_states.iter().map(|state| state.transactional_id.0.to_string()).collect()
    }

    /// What the broker says of an id's last transaction: state, producer, epoch. `None`: it does not know the id.
    pub fn describe_transaction(&self, id: &str) -> Option<(String, i64, i16)> {
        let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![transactional(id)]);
        let described = async { self.client().call(&self.address, &request, 0).await };
        let described = self.runtime.block_on(described).unwrap();
        let state = &described.transaction_states[0];
        let known = (state.transaction_state.to_string(), state.producer_id.0, state.producer_epoch);
        (state.error_code == 0).then_some(known)
    }

    /// Ends a transaction with an identity, as its writer would; returns the code of the answer.
    pub fn commit_transaction(&self, id: &str, producer: i64, epoch: i16) -> i16 {
        let request = EndTxnRequest::default()
            .with_transactional_id(transactional(id))
            .with_producer_id(ProducerId(producer))
            .with_producer_epoch(epoch)
            .with_committed(true);
        let ended = async { self.client().call(&self.address, &request, 5).await };
        self.runtime.block_on(ended).unwrap().error_code
    }

    /// Takes a transactional id for another writer.
    pub fn supersede(&self, id: &str) {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional(id)))
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        wait_until("the id belongs to another writer", || {
            let taken = async {
                let mut client = self.client();
                // The log of transactions is made when it is asked for first.
                client.coordinator(id).await?;
                client.call(&self.address, &request, 5).await
            };
            self.runtime.block_on(taken).is_ok_and(|taken| taken.error_code == 0)
        });
    }

    /// All committed records of a topic as key and value, those of a partition in order, as Kafka's own consumer reads them.
    pub fn keyed(&self, topic: &str) -> Vec<(String, String)> {
        let read = java("org.apache.kafka.tools.consumer.ConsoleConsumer")
            .args(["--bootstrap-server", &self.address, "--topic", topic, "--from-beginning"])
            .args([
                "--isolation-level",
                "read_committed",
                "--timeout-ms",
                "3000",
                "--property",
                "print.key=true",
            ])
            .output()
            .unwrap();
        let text = String::from_utf8(read.stdout).unwrap();
        let record =
            |line: &str| line.split_once('\t').map(|(key, value)| (key.to_owned(), value.to_owned()));
        text.lines().filter_map(record).collect()
    }

    /// All committed records of a topic, sorted, with what Kafka's own consumer prints of them.
    pub fn printed(&self, topic: &str, properties: &[&str], expected: usize) -> Vec<String> {
        let properties = properties.iter().flat_map(|property| ["--property", property]);
        self.consumed(topic, &properties.collect::<Vec<_>>(), expected)
    }

    /// All committed values of a topic, sorted, as Kafka's own consumer reads them; at least `expected`, if it can find as many.
    pub fn committed(&self, topic: &str, expected: usize) -> Vec<String> {
        self.consumed(topic, &[], expected)
    }

    fn consumed(&self, topic: &str, arguments: &[&str], expected: usize) -> Vec<String> {
        let mut rows: Vec<String> = Vec::new();
        for _ in 0..CONSUMER_TRIES {
            let read = java("org.apache.kafka.tools.consumer.ConsoleConsumer")
                .args(["--bootstrap-server", &self.address, "--topic", topic, "--from-beginning"])
                .args(["--isolation-level", "read_committed", "--timeout-ms", "3000"])
                .args(arguments)
                .output()
                .unwrap();
            rows = String::from_utf8(read.stdout).unwrap().lines().map(str::to_owned).collect();
            // A new consumer may be too slow for its own time-out.
            if rows.len() >= expected {
                break;
            }
        }
        rows.sort();
        rows
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
