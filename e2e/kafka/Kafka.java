// Kafka's own client, for tests: what it writes and reads does not depend on Millrace's code.
// Usage: java -cp JARS Kafka.java create BROKERS TOPIC PARTITIONS
//        java -cp JARS Kafka.java load BROKERS TOPIC ROWS ROWS_A_SECOND
//        java -cp JARS Kafka.java close BROKERS TOPIC
//        java -cp JARS Kafka.java poison BROKERS TOPIC    a record that is no JSON
//        java -cp JARS Kafka.java mark BROKERS TOPIC      a record at the end of each partition
//        java -cp JARS Kafka.java settle BROKERS PREFIX   until no transaction of such an id is open
//        java -cp JARS Kafka.java read BROKERS TOPIC      prints partition, offset and value of committed records for ever

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.LocalDateTime;
import java.time.format.DateTimeFormatter;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListTransactionsOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Kafka {
    // As in src/events.rs: rows of a block are sent out of order, and the last partition stays empty.
    static final int BLOCK = 50;
    static final int STEP = 37;
    static final int FILLED_PARTITIONS = 4;
    static final int KEYS = 100;
    static final LocalDateTime START = LocalDateTime.of(2026, 1, 1, 0, 0);
    static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("yyyy-MM-dd HH:mm:ss.SSS");

    public static void main(String[] arguments) throws Exception {
        String brokers = arguments[1], topic = arguments[2];
        switch (arguments[0]) {
            case "create" -> create(brokers, topic, Integer.parseInt(arguments[3]));
            case "load" -> load(brokers, topic, Long.parseLong(arguments[3]), Long.parseLong(arguments[4]));
            case "close" -> close(brokers, topic);
            case "poison" -> poison(brokers, topic);
            case "mark" -> mark(brokers, topic);
            case "settle" -> settle(brokers, topic);
            case "read" -> read(brokers, topic);
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    static void create(String brokers, String topic, int partitions) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
            admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
        }
    }

    /** Writes a record that is no row. */
    static void poison(String brokers, String topic) throws Exception {
        try (var producer = producer(brokers)) {
            producer.send(new ProducerRecord<>(topic, 0, null, "{\"id\": oops}".getBytes(StandardCharsets.UTF_8))).get();
        }
    }

    static KafkaProducer<byte[], byte[]> producer(String brokers) {
        Map<String, Object> settings = Map.of("bootstrap.servers", brokers, "acks", "all", "linger.ms", 5);
        return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    static void load(String brokers, String topic, long rows, long perSecond) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer(brokers)) {
            long started = System.nanoTime();
            Future<RecordMetadata> last = null;
            for (long sent = 0; sent < rows; sent++) {
                long due = started + sent * TimeUnit.SECONDS.toNanos(1) / perSecond;
                long early = due - System.nanoTime();
                if (early > TimeUnit.MILLISECONDS.toNanos(5)) {
                    TimeUnit.NANOSECONDS.sleep(early);
                }
                long id = sent / BLOCK * BLOCK + sent % BLOCK * STEP % BLOCK;
                String time = TIME.format(START.plusNanos(id * TimeUnit.SECONDS.toNanos(1) / perSecond));
                String row = "{\"id\":" + id + ",\"k\":" + id % KEYS + ",\"ts\":\"" + time + "\"}";
                last = producer.send(record(topic, (int) (id % FILLED_PARTITIONS), row));
            }
            if (last != null) {
                last.get();
            }
        }
    }

    /** Writes a record to each partition, behind all others: a reader that has seen them has seen all. */
    static void mark(String brokers, String topic) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer(brokers)) {
            for (PartitionInfo partition : producer.partitionsFor(topic)) {
                producer.send(record(topic, partition.partition(), "mark")).get();
            }
        }
    }

    /** Waits until the broker has ended all transactions whose ids begin so. */
    static void settle(String brokers, String prefix) throws Exception {
        var open = new ListTransactionsOptions().filterStates(Set.of(
                TransactionState.ONGOING, TransactionState.PREPARE_ABORT, TransactionState.PREPARE_EPOCH_FENCE));
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
            while (admin.listTransactions(open).all().get().stream().anyMatch(found -> found.transactionalId().startsWith(prefix))) {
                TimeUnit.MILLISECONDS.sleep(200);
            }
        }
    }

    // One row far ahead in each partition closes all windows.
    static void close(String brokers, String topic) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer(brokers)) {
            for (int partition = 0; partition < FILLED_PARTITIONS; partition++) {
                producer.send(record(topic, partition, "{\"id\":-1,\"k\":-1,\"ts\":\"2027-01-01 00:00:00\"}")).get();
            }
        }
    }

    static ProducerRecord<byte[], byte[]> record(String topic, int partition, String row) {
        return new ProducerRecord<>(topic, partition, null, row.getBytes(StandardCharsets.UTF_8));
    }

    static void read(String brokers, String topic) {
        Map<String, Object> settings = Map.of("bootstrap.servers", brokers, "isolation.level", "read_committed");
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            var partitions = consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            while (!System.out.checkError()) {
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    String value = new String(record.value(), StandardCharsets.UTF_8);
                    System.out.println(record.partition() + "\t" + record.offset() + "\t" + value);
                }
            }
        }
    }
}
