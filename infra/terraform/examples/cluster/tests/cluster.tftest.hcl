# The example as a whole: what it hands to its user, and what it costs at most.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_ssm_parameter" {
    defaults = { value = "ami-0123456789abcdef0" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555" }
  }
  mock_resource "aws_db_instance" {
    defaults = {
      address            = "mlflow.internal"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db-1", kms_key_id = "", secret_status = "active" }]
    }
  }
  mock_resource "aws_instance" {
    defaults = { id = "i-0123456789abcdef0" }
  }
}

variables {
  alert_emails = ["ops@example.org"]
}

run "two_machines_of_eight_gpus" {
  assert {
    condition     = yamldecode(output.trunkline_cluster_conf).workers == 16 && yamldecode(output.trunkline_cluster_conf).cpus_per_worker == 11 && yamldecode(output.trunkline_cluster_conf).accelerator == "A100"
    error_message = "conf/cluster/*.yaml would not use the 16 GPUs: ${output.trunkline_cluster_conf}"
  }

  assert {
    condition     = aws_s3_object.cluster_yaml.content == output.cluster_yaml && yamldecode(output.cluster_yaml).max_workers == 2 && yamldecode(output.cluster_yaml).available_node_types.gpu.min_workers == 0
    error_message = "the head would fetch another configuration, or workers would run idle"
  }

  assert {
    condition     = length(yamldecode(output.cluster_yaml).available_node_types.gpu.node_config.SubnetIds) == 1
    error_message = "EFA and the placement group need one subnet"
  }

  assert {
    condition     = output.store_uri == "s3://${module.storage.checkpoints_bucket}/store" && output.tracking_uri == "http://10.20.0.10:5000"
    error_message = "store or tracking is elsewhere: ${output.store_uri} ${output.tracking_uri}"
  }

  assert {
    condition     = strcontains(output.tunnel_command, "--target i-0123456789abcdef0 --document-name AWS-StartPortForwardingSession --parameters portNumber=8265,localPortNumber=8265")
    error_message = "the tunnel goes elsewhere: ${output.tunnel_command}"
  }

  assert {
    condition     = strcontains(output.hourly_cost_note, "43.92 USD an hour more for 2 × p4d.24xlarge")
    error_message = "the note has another sum: ${output.hourly_cost_note}"
  }
}

run "small_gpus_in_any_zone_without_a_database" {
  variables {
    worker_instance_type = "g6.xlarge"
    efa                  = false
    placement_group      = false
    spot                 = true
    database             = false
  }

  assert {
    condition     = length(yamldecode(output.cluster_yaml).available_node_types.gpu.node_config.SubnetIds) == 2
    error_message = "workers should start in any zone"
  }

  assert {
    condition     = yamldecode(output.trunkline_cluster_conf).cpus_per_worker == 3 && yamldecode(output.trunkline_cluster_conf).workers == 2
    error_message = "conf/cluster/*.yaml does not fit two g6.xlarge: ${output.trunkline_cluster_conf}"
  }
}

run "one_zone" {
  command = plan

  variables {
    zones = ["a"]
  }

  expect_failures = [var.zones]
}
