# The example as a whole: one machine, no workers, no database.

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
}

variables {
  alert_emails = ["ops@example.org"]
}

run "about_a_dollar_an_hour" {
  assert {
    condition     = module.ray.usd_per_hour.head + 0.05 < 1 && module.ray.usd_per_hour.workers == 0 && module.mlflow.database_id == null
    error_message = "the machine and the NAT gateway cost more than a dollar an hour"
  }

  assert {
    condition     = yamldecode(output.trunkline_cluster_conf).workers == 1 && module.ray.cluster_yaml == null
    error_message = "one GPU is one training process"
  }
}

run "machine_without_a_gpu" {
  command = plan

  variables {
    instance_type = "m7i.xlarge"
  }

  expect_failures = [var.instance_type]
}
