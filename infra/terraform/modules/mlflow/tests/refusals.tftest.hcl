# What cannot work is refused before anything is created.

mock_provider "aws" {}

variables {
  name                    = "trunk"
  region                  = "us-east-1"
  vpc_id                  = "vpc-1"
  subnet_ids              = ["subnet-1", "subnet-2"]
  nodes_security_group_id = "sg-nodes"
  server_role_name        = "trunk-head"
  artifacts_uri           = "s3://trunk-1-mlflow/artifacts"
  kms_key_arn             = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
}

run "database_in_one_zone" {
  command = plan

  variables {
    subnet_ids = ["subnet-1"]
  }

  expect_failures = [var.subnet_ids]
}

run "no_backups" {
  command = plan

  variables {
    backup_days = 0
  }

  expect_failures = [var.backup_days]
}

run "alias_for_a_key" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:us-east-1:123456789012:alias/trunk"
  }

  expect_failures = [var.kms_key_arn]
}

run "artifacts_without_a_prefix" {
  command = plan

  variables {
    artifacts_uri = "s3://trunk-1-mlflow"
  }

  expect_failures = [var.artifacts_uri]
}

run "class_of_ec2" {
  command = plan

  variables {
    instance_class = "t4g.small"
    storage_gb     = 5
  }

  expect_failures = [var.instance_class, var.storage_gb]
}
