# What every cluster has, whatever it is sized to: IMDSv2, encrypted disks, no public address, no way in, roles that may do little.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_ssm_parameter" {
    defaults = { value = "ami-0123456789abcdef0" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-1", arn = "arn:aws:ec2:us-east-1:123456789012:launch-template/lt-1", latest_version = 7 }
  }
  mock_resource "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:trunk/ray-AbCdEf" }
  }
  mock_resource "aws_security_group" {
    defaults = { id = "sg-nodes" }
  }
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/trunk-worker" }
  }
  override_resource {
    target = aws_iam_role.worker
    values = { arn = "arn:aws:iam::123456789012:role/trunk-worker" }
  }
}

variables {
  name                      = "trunk"
  region                    = "us-east-1"
  vpc_id                    = "vpc-1"
  head_subnet_id            = "subnet-1"
  head_private_ip           = "10.20.0.10"
  worker_subnet_ids         = ["subnet-1"]
  worker_availability_zones = ["us-east-1a"]
  kms_key_arn               = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  buckets                   = { data = "b-data", checkpoints = "b-checkpoints", mlflow = "b-mlflow" }
  worker_instance_type      = "p4d.24xlarge"
  max_workers               = 4
}

run "machines" {
  assert {
    condition     = aws_instance.head.metadata_options[0].http_tokens == "required" && aws_instance.head.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "the head answers IMDSv1, or to more than itself"
  }

  assert {
    condition     = aws_launch_template.worker[0].metadata_options[0].http_tokens == "required" && aws_launch_template.worker[0].metadata_options[0].http_put_response_hop_limit == 1
    error_message = "workers answer IMDSv1, or to more than themselves"
  }

  assert {
    condition     = aws_instance.head.root_block_device[0].encrypted == true && aws_instance.head.root_block_device[0].volume_type == "gp3" && aws_instance.head.root_block_device[0].delete_on_termination == true
    error_message = "the head's disk is not an encrypted gp3 that goes with it"
  }

  assert {
    condition = alltrue([
      for device in aws_launch_template.worker[0].block_device_mappings :
      device.ebs[0].encrypted == "true" && device.ebs[0].volume_type == "gp3" && device.ebs[0].delete_on_termination == "true"
    ]) && length(aws_launch_template.worker[0].block_device_mappings) == 1
    error_message = "a worker's disk is not an encrypted gp3 that goes with it"
  }

  assert {
    condition     = aws_instance.head.disable_api_termination == true && length(aws_instance.head.instance_market_options) == 0
    error_message = "the head can be terminated by a slip, or is on spot"
  }

  assert {
    condition     = aws_secretsmanager_secret.ray.kms_key_id == var.kms_key_arn && aws_secretsmanager_secret.ray.name == "trunk/ray"
    error_message = "the secret has another key or name"
  }

  assert {
    condition     = strcontains(aws_instance.head.user_data, "SECRET_ARN=${aws_secretsmanager_secret.ray.arn}") && length(aws_instance.head.user_data) < 16384
    error_message = "user data does not name the secret, or is over EC2's 16 kB"
  }

  assert {
    condition     = !can(regex("(?i)(password|token)=.", aws_instance.head.user_data))
    error_message = "user data holds a password or token"
  }
}

run "nothing_reaches_the_nodes_from_outside" {
  assert {
    condition     = aws_instance.head.associate_public_ip_address == false
    error_message = "the head has a public address"
  }

  assert {
    condition     = aws_launch_template.worker[0].key_name == null && alltrue([for interface in aws_launch_template.worker[0].network_interfaces : coalesce(interface.associate_public_ip_address, "false") == "false"])
    error_message = "workers have a public address, or a key for SSH"
  }

  assert {
    condition     = length(coalesce(aws_security_group.nodes.ingress, [])) == 0
    error_message = "the security group has rules of its own; they belong into aws_security_group_rule"
  }

  assert {
    condition     = aws_security_group_rule.from_nodes.self == true && aws_security_group_rule.from_nodes.cidr_blocks == null
    error_message = "the nodes take connections from others than themselves"
  }

  assert {
    condition     = aws_security_group_rule.to_nodes.self == true && aws_security_group_rule.to_outside.from_port == 443 && aws_security_group_rule.to_outside.to_port == 443
    error_message = "the nodes call outside on more than TLS, or not themselves (EFA needs both directions)"
  }

  assert {
    condition     = aws_instance.head.vpc_security_group_ids == toset(["sg-nodes"]) && aws_launch_template.worker[0].vpc_security_group_ids == toset(["sg-nodes"])
    error_message = "a node has another security group"
  }
}

run "roles" {
  assert {
    condition = alltrue([
      for policy in [aws_iam_role_policy.head_node.policy, aws_iam_role_policy.worker_node.policy] :
      toset(flatten([for statement in jsondecode(policy).Statement : [for action in statement.Action : [for resource in statement.Resource : "${action} ${resource}"]] if startswith(statement.Action[0], "s3:")])) == toset([
        "s3:ListBucket arn:aws:s3:::b-data",
        "s3:ListBucket arn:aws:s3:::b-checkpoints",
        "s3:ListBucket arn:aws:s3:::b-mlflow",
        "s3:GetObject arn:aws:s3:::b-data/bootstrap/*",
        "s3:GetObject arn:aws:s3:::b-data/data/*",
        "s3:GetObject arn:aws:s3:::b-checkpoints/store/*",
        "s3:PutObject arn:aws:s3:::b-checkpoints/store/*",
        "s3:DeleteObject arn:aws:s3:::b-checkpoints/store/*",
        "s3:AbortMultipartUpload arn:aws:s3:::b-checkpoints/store/*",
        "s3:GetObject arn:aws:s3:::b-mlflow/artifacts/*",
        "s3:PutObject arn:aws:s3:::b-mlflow/artifacts/*",
        "s3:DeleteObject arn:aws:s3:::b-mlflow/artifacts/*",
        "s3:AbortMultipartUpload arn:aws:s3:::b-mlflow/artifacts/*",
      ])
    ])
    error_message = "nodes may do something else on S3 than on our prefixes"
  }

  assert {
    condition = {
      for statement in jsondecode(aws_iam_role_policy.worker_node.policy).Statement : statement.Sid => [statement.Action, statement.Resource]
      if contains(["UseKeyThroughS3AndSecrets", "ReadSecrets"], statement.Sid)
      } == {
      UseKeyThroughS3AndSecrets = [["kms:Decrypt", "kms:GenerateDataKey"], [var.kms_key_arn]]
      ReadSecrets               = [["secretsmanager:GetSecretValue"], [aws_secretsmanager_secret.ray.arn, "arn:aws:secretsmanager:us-east-1:123456789012:secret:trunk/jobs/*"]]
    }
    error_message = "workers may use other keys or secrets: ${aws_iam_role_policy.worker_node.policy}"
  }

  assert {
    condition     = sort([for statement in jsondecode(aws_iam_role_policy.worker_node.policy).Statement : statement.Sid]) == sort(["ListBuckets", "ReadInputs", "ReadAndWriteArtifacts", "UseKeyThroughS3AndSecrets", "ReadSecrets", "SessionManager"])
    error_message = "workers may do more: ${join(", ", [for statement in jsondecode(aws_iam_role_policy.worker_node.policy).Statement : statement.Sid])}"
  }

  assert {
    condition = toset(flatten([
      for policy in [aws_iam_role_policy.head_node.policy, aws_iam_role_policy.worker_node.policy, aws_iam_role_policy.head_autoscaler[0].policy] : [
        for statement in jsondecode(policy).Statement : statement.Action if contains(statement.Resource, "*")
      ]
      ])) == toset([
      "ec2:DescribeInstances",
      "ssm:UpdateInstanceInformation",
      "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel",
      "ssmmessages:OpenDataChannel",
    ])
    error_message = "a policy allows an action on every resource"
  }

  assert {
    condition = alltrue(flatten([
      for policy in [aws_iam_role_policy.head_node.policy, aws_iam_role_policy.worker_node.policy, aws_iam_role_policy.head_autoscaler[0].policy] : [
        for statement in jsondecode(policy).Statement : [for action in statement.Action : !strcontains(action, "*")]
      ]
    ]))
    error_message = "a policy allows actions by a pattern"
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.head_autoscaler[0].policy).Statement :
      try(statement.Condition.ArnEquals["ec2:LaunchTemplate"], "") == "arn:aws:ec2:us-east-1:123456789012:launch-template/lt-1"
      if contains(statement.Action, "ec2:RunInstances")
    ])
    error_message = "the head may start machines from other templates"
  }

  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.head_autoscaler[0].policy).Statement : statement.Condition.StringEquals
      if contains(statement.Action, "ec2:RunInstances") && anytrue([for resource in statement.Resource : strcontains(resource, ":instance/")])
      ] == [{
        "aws:RequestTag/ray-cluster-name" = "trunk"
        "aws:RequestTag/ray-node-type"    = "worker"
        "ec2:InstanceType"                = "p4d.24xlarge"
        "ec2:MetadataHttpTokens"          = "required"
    }]
    error_message = "the head may start machines of another type or cluster, or without IMDSv2"
  }

  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.head_autoscaler[0].policy).Statement : statement.Condition.StringEquals
      if contains(statement.Action, "ec2:TerminateInstances")
    ] == [{ "aws:ResourceTag/ray-cluster-name" = "trunk", "aws:ResourceTag/ray-node-type" = "worker" }]
    error_message = "the head may end machines that are not its workers"
  }

  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.head_autoscaler[0].policy).Statement : [statement.Resource, statement.Condition.StringEquals["iam:PassedToService"]]
      if contains(statement.Action, "iam:PassRole")
    ] == [[["arn:aws:iam::123456789012:role/trunk-worker"], "ec2.amazonaws.com"]]
    error_message = "the head may give machines another role than the workers'"
  }
}
