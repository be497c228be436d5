-- A catalogue as programs of schema version 2 made it, with an image. Never to be changed.
CREATE TABLE catalog_schema (
    id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE images (
    id VARCHAR(50) NOT NULL,
    folder_id VARCHAR(50) NOT NULL,
    name VARCHAR(63) NOT NULL,
    description VARCHAR(256) NOT NULL,
    labels JSON NOT NULL,
    family VARCHAR(63) NOT NULL,
    min_disk_size BIGINT NOT NULL,
    product_ids JSON NOT NULL,
    os JSON NOT NULL,
    pooled BOOLEAN NOT NULL,
    hardware_generation JSON,
    status INTEGER NOT NULL,
    created_at_us BIGINT NOT NULL,
    root BLOB,
    virtual_size BIGINT,
    data_size BIGINT,
    storage_size BIGINT,
    allocated_size BIGINT,
    chunk_size BIGINT,
    codec VARCHAR(32),
    chunks BIGINT,
    distinct_chunks BIGINT,
    PRIMARY KEY (id)
);
CREATE INDEX images_family ON images (folder_id, family, created_at_us);
CREATE INDEX images_folder ON images (folder_id, id);
CREATE UNIQUE INDEX images_name ON images (folder_id, name) WHERE name != '';
CREATE TABLE operations (
    id VARCHAR(50) NOT NULL,
    kind VARCHAR(32) NOT NULL,
    image_id VARCHAR(50) NOT NULL,
    folder_id VARCHAR(50) NOT NULL,
    created_at_us BIGINT NOT NULL,
    created_by VARCHAR(100) NOT NULL,
    modified_at_us BIGINT NOT NULL,
    done BOOLEAN NOT NULL,
    error BLOB,
    response BLOB,
    source BLOB,
    lease_owner VARCHAR(100) NOT NULL,
    lease_until_us BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    attempts INTEGER NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    progress JSON,
    claimed_at_us BIGINT DEFAULT '0' NOT NULL,
    fresh_source BLOB,
    source_refusal VARCHAR(1000) DEFAULT '' NOT NULL,
    source_version VARCHAR(1000),
    held_pin VARCHAR(63),
    folder_bytes_max BIGINT,
    PRIMARY KEY (id)
);
CREATE INDEX operations_served ON operations (folder_id, claimed_at_us);
CREATE INDEX operations_done ON operations (modified_at_us) WHERE done IS 1;
CREATE INDEX operations_waiting ON operations (folder_id, created_at_us, id) WHERE done IS 0;
CREATE INDEX operations_of_image ON operations (image_id, created_at_us, id);
CREATE TABLE request_keys (
    subject_id VARCHAR(100) NOT NULL,
    method VARCHAR(100) NOT NULL,
    "key" VARCHAR(128) NOT NULL,
    mark BLOB NOT NULL,
    operation_id VARCHAR(50) NOT NULL,
    PRIMARY KEY (subject_id, method, "key")
);
CREATE INDEX request_keys_operation ON request_keys (operation_id);
CREATE TABLE access_bindings (
    image_id VARCHAR(50) NOT NULL,
    subject_type VARCHAR(100) NOT NULL,
    subject_id VARCHAR(100) NOT NULL,
    role_id VARCHAR(64) NOT NULL,
    PRIMARY KEY (image_id, subject_type, subject_id, role_id)
);
INSERT INTO images (id, folder_id, name, description, labels, family, min_disk_size, product_ids, os, pooled, hardware_generation, status, created_at_us, root) VALUES ('fd8image000000000000', 'f1', 'disk', 'd', '{"a": "b"}', 'fam', 8388608, '["p"]', '{"type": "LINUX"}', false, NULL, 2, 1000, NULL);
INSERT INTO operations (id, kind, image_id, folder_id, created_at_us, created_by, modified_at_us, done, error, response, source, lease_owner, lease_until_us, epoch, attempts, cancel_requested, progress) VALUES ('fdpoperation00000000', 'create_image', 'fd8image000000000000', 'f1', 1000, 'me', 2000, true, NULL, NULL, NULL, '', 0, 1, 1, false, NULL);
INSERT INTO access_bindings (image_id, subject_type, subject_id, role_id) VALUES ('fd8image000000000000', 'system', 'allAuthenticatedUsers', 'viewer');
INSERT INTO catalog_schema (id, version) VALUES (1, 2);
