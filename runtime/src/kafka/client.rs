//! A cluster: which broker leads a partition, coordinates a transaction, and one connection to each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    DescribeConfigsRequest, FindCoordinatorRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};

use super::{Connection, KafkaError, NoTopicSnafu, Security, UNKNOWN_TOPIC_OR_PARTITION, checked};
use crate::clock::Clock;
use crate::transport::Transport;

/// Newest metadata version that names topics; later ones may use ids alone.
const METADATA_VERSION: i16 = 9;
/// The first version for several keys.
const FIND_COORDINATOR_VERSION: i16 = 4;
/// What a coordinator is looked for: a transactional id.
const TRANSACTION: i8 = 1;

const DESCRIBE_CONFIGS_VERSION: i16 = 4;
/// What settings are asked of.
const BROKER: i8 = 4;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub index: i32,
    /// Address of the broker that leads it; `None`: there is none at the moment.
    pub leader: Option<String>,
}

/// A client of one cluster.
pub struct Client {
    bootstrap: Vec<String>,
    security: Arc<Security>,
    brokers: BTreeMap<i32, String>,
    open: HashMap<String, Connection>,
    clock: Clock,
    transport: Arc<dyn Transport>,
}

impl Client {
    /// A client that finds the cluster through these brokers; nothing is connected yet.
    pub fn new(
        bootstrap: Vec<String>,
        security: Arc<Security>,
        clock: Clock,
        transport: Arc<dyn Transport>,
    ) -> Self {
        Client { bootstrap, security, brokers: BTreeMap::new(), open: HashMap::new(), clock, transport }
    }

    /// Takes the connection to a broker out, opened if there is none. Give it back with [`Client::put`] unless it failed.
    pub async fn take(&mut self, address: &str) -> Result<Connection, KafkaError> {
        match self.open.remove(address) {
            Some(connection) => Ok(connection),
            None => Connection::open(address, &self.security, self.clock, self.transport.as_ref()).await,
        }
    }

    /// Keeps a connection for later.
    pub fn put(&mut self, connection: Connection) {
        self.open.insert(connection.address().to_owned(), connection);
    }

    /// Asks one broker.
    pub async fn call<R: Request>(
        &mut self,
        address: &str,
        request: &R,
        newest: i16,
    ) -> Result<R::Response, KafkaError> {
        let mut connection = self.take(address).await?;
        let answer = connection.call(request, newest).await?;
        self.put(connection);
        Ok(answer)
    }

    /// Asks any broker that answers.
    pub async fn call_any<R: Request>(
        &mut self,
        request: &R,
        newest: i16,
    ) -> Result<(String, R::Response), KafkaError> {
        let known = self.brokers.values().chain(&self.bootstrap).cloned();
        let mut candidates: Vec<String> = Vec::new();
        for address in known {
            if !candidates.contains(&address) {
                candidates.push(address);
            }
        }
        // Brokers that are connected already first.
        candidates.sort_by_key(|address| !self.open.contains_key(address));
        let mut failure = None;
        for address in candidates {
            match self.call(&address, request, newest).await {
                Ok(answer) => return Ok((address, answer)),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or(KafkaError::Unsupported {
            address: "no broker".to_owned(),
            message: "'properties.bootstrap.servers' is empty".to_owned(),
        }))
    }

    async fn metadata(&mut self, topic: Option<&str>) -> Result<(String, MetadataResponse), KafkaError> {
        let topic = topic.map(|topic| {
            let name = TopicName(StrBytes::from_string(topic.to_owned()));
            MetadataRequestTopic::default().with_name(Some(name))
        });
        let request = MetadataRequest::default()
            .with_topics(Some(topic.into_iter().collect()))
            .with_allow_auto_topic_creation(false);
        let (address, answer) = self.call_any(&request, METADATA_VERSION).await?;
        let broker = |broker: &kafka_protocol::messages::metadata_response::MetadataResponseBroker| {
            (broker.node_id.0, format!("{}:{}", broker.host, broker.port))
        };
        self.brokers = answer.brokers.iter().map(broker).collect();
        Ok((address, answer))
    }

    /// Addresses of all brokers.
    pub async fn brokers(&mut self) -> Result<Vec<String>, KafkaError> {
        self.metadata(None).await?;
        Ok(self.brokers.values().cloned().collect())
    }

    /// What a broker's setting says; `None` if it does not tell.
    pub async fn broker_setting(&mut self, address: &str, key: &str) -> Result<Option<String>, KafkaError> {
        self.metadata(None).await?;
        let Some((id, _)) = self.brokers.iter().find(|(_, known)| *known == address) else { return Ok(None) };
        let resource = DescribeConfigsResource::default()
            .with_resource_type(BROKER)
            .with_resource_name(StrBytes::from_string(id.to_string()))
            .with_configuration_keys(Some(vec![StrBytes::from_string(key.to_owned())]));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.call(address, &request, DESCRIBE_CONFIGS_VERSION).await?;
        let mut configs = answer.results.into_iter().flat_map(|result| result.configs);
        let found = configs.find(|config| config.name.as_str() == key);
        Ok(found.and_then(|config| Some(config.value?.to_string())))
    }

    /// Names of all topics but those of the brokers' own.
    pub async fn topics(&mut self) -> Result<Vec<String>, KafkaError> {
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let (_, answer) = self.call_any(&request, METADATA_VERSION).await?;
        let names = answer.topics.into_iter().filter(|topic| !topic.is_internal);
        Ok(names.filter_map(|topic| Some(topic.name?.0.to_string())).collect())
    }

    /// The partitions of a topic, by index.
    pub async fn partitions(&mut self, topic: &str) -> Result<Vec<Partition>, KafkaError> {
        let (address, answer) = self.metadata(Some(topic)).await?;
        let found = answer.topics.first().filter(|found| found.error_code != UNKNOWN_TOPIC_OR_PARTITION);
        let Some(found) = found else {
            return NoTopicSnafu { topic, brokers: self.bootstrap.join(",") }.fail();
        };
        checked(found.error_code, &format!("describe the topic '{topic}'"), &address)?;
        let partition =
            |partition: &kafka_protocol::messages::metadata_response::MetadataResponsePartition| Partition {
                index: partition.partition_index,
                leader: self.brokers.get(&partition.leader_id.0).cloned(),
            };
        let mut partitions: Vec<Partition> = found.partitions.iter().map(partition).collect();
        partitions.sort_by_key(|partition| partition.index);
        Ok(partitions)
    }

    /// Address of the broker that coordinates a transactional id.
    pub async fn coordinator(&mut self, transactional_id: &str) -> Result<String, KafkaError> {
        let found = self.coordinators(&[transactional_id.to_owned()]).await?;
        // Either it is found, or an error has said why not.
        Ok(found.into_keys().next().unwrap_or_default())
    }

    /// Transactional ids by the address of the broker that coordinates them.
    pub async fn coordinators(
        &mut self,
        transactional_ids: &[String],
    ) -> Result<BTreeMap<String, Vec<String>>, KafkaError> {
        let mut by_broker: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if transactional_ids.is_empty() {
            return Ok(by_broker);
        }
        let keys = transactional_ids.iter().map(|id| StrBytes::from_string(id.clone())).collect();
        let request =
            FindCoordinatorRequest::default().with_key_type(TRANSACTION).with_coordinator_keys(keys);
        let (address, answer) = self.call_any(&request, FIND_COORDINATOR_VERSION).await?;
        for id in transactional_ids {
            let action = format!("find the coordinator of '{id}'");
            let Some(found) = answer.coordinators.iter().find(|found| found.key.as_str() == id) else {
                return super::MalformedSnafu { action, address, message: "it names no coordinator" }.fail();
            };
            checked(found.error_code, &action, &address)?;
            by_broker.entry(format!("{}:{}", found.host, found.port)).or_default().push(id.clone());
        }
        Ok(by_broker)
    }
}
