# Every bucket is encrypted, versioned, private and reached over TLS only; nothing that has a name expires.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555" }
  }
}

variables {
  name = "trunk"
}

run "buckets_are_private_and_encrypted" {
  assert {
    condition     = sort([for bucket in aws_s3_bucket.this : bucket.bucket]) == tolist(["trunk-123456789012-checkpoints", "trunk-123456789012-data", "trunk-123456789012-mlflow"])
    error_message = "the buckets are ${join(", ", [for bucket in aws_s3_bucket.this : bucket.bucket])}"
  }

  assert {
    condition     = alltrue([for bucket in aws_s3_bucket.this : !bucket.force_destroy])
    error_message = "a bucket may be destroyed with what it holds"
  }

  assert {
    condition     = output.store_uri == "s3://${aws_s3_bucket.this["checkpoints"].id}/store"
    error_message = "the store is ${output.store_uri}"
  }

  assert {
    condition = alltrue([
      for name, _ in aws_s3_bucket.this : [
        for rule in aws_s3_bucket_server_side_encryption_configuration.this[name].rule : [
          one(rule.apply_server_side_encryption_by_default).sse_algorithm,
          one(rule.apply_server_side_encryption_by_default).kms_master_key_id,
        ]
      ] == [["aws:kms", aws_kms_key.this.arn]]
    ])
    error_message = "a bucket is not encrypted with the cluster's key"
  }

  assert {
    condition     = aws_kms_key.this.enable_key_rotation && aws_kms_key.this.deletion_window_in_days == 30
    error_message = "the key does not rotate, or goes too soon"
  }

  assert {
    condition     = alltrue([for name, _ in aws_s3_bucket.this : one(aws_s3_bucket_versioning.this[name].versioning_configuration).status == "Enabled"])
    error_message = "a bucket keeps no versions"
  }

  assert {
    condition = alltrue([
      for name, _ in aws_s3_bucket.this : alltrue([
        aws_s3_bucket_public_access_block.this[name].bucket == aws_s3_bucket.this[name].id,
        aws_s3_bucket_public_access_block.this[name].block_public_acls,
        aws_s3_bucket_public_access_block.this[name].block_public_policy,
        aws_s3_bucket_public_access_block.this[name].ignore_public_acls,
        aws_s3_bucket_public_access_block.this[name].restrict_public_buckets,
      ])
    ])
    error_message = "a bucket can be made public"
  }

  assert {
    condition     = alltrue([for name, _ in aws_s3_bucket.this : one(aws_s3_bucket_ownership_controls.this[name].rule).object_ownership == "BucketOwnerEnforced"])
    error_message = "a bucket takes access lists"
  }

  assert {
    condition = alltrue([
      for name, _ in aws_s3_bucket.this : anytrue([
        for statement in jsondecode(aws_s3_bucket_policy.this[name].policy).Statement :
        statement.Effect == "Deny" && statement.Principal == "*" && statement.Action == "s3:*"
        && try(statement.Condition.Bool["aws:SecureTransport"], "") == "false"
        && toset(statement.Resource) == toset([aws_s3_bucket.this[name].arn, "${aws_s3_bucket.this[name].arn}/*"])
      ])
    ])
    error_message = "a bucket answers without TLS"
  }

  assert {
    condition     = alltrue([for policy in aws_s3_bucket_policy.this : alltrue([for statement in jsondecode(policy.policy).Statement : statement.Effect == "Deny"])])
    error_message = "a bucket policy allows something; it should only deny"
  }

  assert {
    condition = alltrue([
      for name, _ in aws_s3_bucket.this : anytrue([
        for rule in aws_s3_bucket_lifecycle_configuration.this[name].rule :
        rule.status == "Enabled" && length(rule.abort_incomplete_multipart_upload) == 1
      ])
    ])
    error_message = "a bucket keeps the parts of abandoned uploads"
  }

  assert {
    condition = {
      for name, _ in aws_s3_bucket.this : name => flatten([
        for rule in aws_s3_bucket_lifecycle_configuration.this[name].rule : [for part in rule.noncurrent_version_expiration : part.noncurrent_days]
      ])
    } == { data = [30], checkpoints = [3], mlflow = [30] }
    error_message = "versions are kept for another time than asked for"
  }

  # checkpoints are pruned by workflows.checkpoints; a rule that expired or moved them by age would break every old branch
  assert {
    condition = alltrue(flatten([
      for configuration in aws_s3_bucket_lifecycle_configuration.this : [
        for rule in configuration.rule : [
          length(rule.transition) == 0,
          length(rule.noncurrent_version_transition) == 0,
          alltrue([for expiration in rule.expiration : try(coalesce(expiration.days, 0), 0) == 0 && expiration.date == null]),
        ]
      ]
    ]))
    error_message = "a lifecycle rule expires or moves objects that are still named"
  }
}

run "nodes_boot_from_the_data_bucket" {
  variables {
    bootstrap_files = { "versions.tf" = "./versions.tf" }
  }

  assert {
    condition     = aws_s3_object.bootstrap["versions.tf"].key == "bootstrap/versions.tf" && aws_s3_object.bootstrap["versions.tf"].bucket == aws_s3_bucket.this["data"].id
    error_message = "a boot file is elsewhere"
  }
}

run "unprotected_to_be_torn_down" {
  variables {
    protect       = false
    bucket_prefix = "acme-lm"
  }

  assert {
    condition     = alltrue([for bucket in aws_s3_bucket.this : bucket.force_destroy && startswith(bucket.bucket, "acme-lm-")])
    error_message = "protect = false leaves buckets that cannot be destroyed"
  }
}
